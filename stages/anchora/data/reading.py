"""Data files: JSON and JSON Lines, CSV, Parquet, or a pointer to a data set on the hub.

Every row is read with its location, ``file:row`` with rows counted from 1, so that later errors can point at it.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pandas as pd

from anchora.data.json_rows import json_rows
from anchora.run.errors import UserError

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
SMALL = 2**16  # bytes
HUB_KEYS = {"hub", "revision", "split", "name"}
NO_ROWS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\[\s*\])?\s*")  # white space or an empty list, maybe behind a byte order mark


def read_rows(path: str, convert: Callable[[dict, str], dict], may_be_empty: bool = False) -> list[dict]:
    """Read every row of a file through ``convert(row, location)``, one of ``formats``.

    The file is JSON (a list or one object a line), CSV or Parquet, or a pointer to a data set on the
    hub: ``{"hub": "openai/gsm8k", "name": "main", "revision": "<40 hex>", "split": "test"}``.
    Raises UserError for a file that cannot be read, for a bad row, and for a file of no rows unless it ``may_be_empty``.
    """
    if Path(path).is_dir():
        raise UserError(f"{path}: it is a folder; name one file: shards of Parquet become one by datasets' load_dataset and to_parquet")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    size = Path(path).stat().st_size
    if may_be_empty and size <= SMALL and NO_ROWS.fullmatch(Path(path).read_bytes()):
        return []
    if size == 0:
        raise UserError(f"{path}: the file is empty; expected at least one row")
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file {Path(path).suffix.lower()!r}; expected one of {', '.join(SUFFIXES)}")
    rows = [convert(row, f"{path}:{number}") for number, row in enumerate(_rows(path), start=1)]
    if not rows and not may_be_empty:
        raise UserError(f"{path}: no rows; expected at least one")
    return rows


def _rows(path: str) -> Iterator[dict]:
    """Yield the rows of a file, or of the data set that it points to, as they are stored; raises UserError for what cannot be read."""
    kind = Path(path).suffix.lower()[1:]
    pointer = _hub_pointer(path) if kind in ("json", "jsonl") else None
    if kind in ("json", "jsonl") and not pointer:
        yield from json_rows(path)
        return
    datasets.disable_progress_bars()
    datasets.disable_caching()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it prints a failure before raising it
    with tempfile.TemporaryDirectory() as cache:
        table = _load_pointer(path, pointer) if pointer else _load(path, kind, cache)
        for batch in table.with_format("arrow").iter(batch_size=1000):  # pictures and sounds stay bytes
            for row in batch.to_pylist():
                yield {field: value or None for field, value in row.items()} if kind == "csv" else row  # an empty cell is no value


def _load_pointer(path: str, pointer: dict) -> datasets.Dataset:
    """Load the data set on the hub that a file points to; raises UserError with the cause in one line."""
    try:
        return datasets.load_dataset(pointer["hub"], pointer.get("name"), revision=pointer["revision"], split=pointer["split"])
    except Exception as error:
        raise UserError(f"{path}: {pointer['hub']} cannot be loaded: {_cause(error)}") from None


def _load(path: str, kind: str, cache: str) -> datasets.Dataset:
    """Load a CSV or Parquet file; raises UserError with the cause in one line."""
    try:
        if kind == "parquet":
            return datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=cache)
        _refuse_uneven_rows(path)
        columns = dict.fromkeys(pd.read_csv(path, nrows=0).columns, datasets.Value("string"))  # text: no number is guessed
        return datasets.load_dataset(
            "csv", data_files=path, split="train", cache_dir=cache, features=datasets.Features(columns), keep_default_na=False
        )
    except UserError:
        raise
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 at byte {_first_bad_byte(path)}; save the file as UTF-8") from None
    except Exception as error:
        raise UserError(f"{path}: cannot be read as {kind}: {_cause(error)}") from None


def _first_bad_byte(path: str) -> int:
    """Return the place of the first byte of a file that is no UTF-8; a file that is read in parts counts from its last one."""
    try:
        Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as bad:
        return bad.start
    return 0


def _cause(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())[:300]


def _refuse_uneven_rows(path: str) -> None:
    """Raise UserError for a CSV file with a column twice, no rows, or a row of more or fewer fields than the header: they would shift."""
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(line.replace("\0", "") for line in file)
        header = next(rows, [])
        for column in header:
            if header.count(column) > 1:
                raise UserError(f"{path}: column {column!r} stands twice in the header; keep one of them")
        number = 0
        for number, row in enumerate(rows, start=1):
            if row and len(row) != len(header):
                raise UserError(
                    f"{path}:{number}: {len(row)} fields, but the header has {len(header)}; put quotes around commas in a field"
                )
        if number == 0:
            raise UserError(f"{path}: no rows below the header {', '.join(header)}; expected at least one")


def _hub_pointer(path: str) -> dict | None:
    """Return the pointer to a data set on the hub that a JSON file is, or None for rows; raises UserError for a bad pointer."""
    if Path(path).stat().st_size > 2000:
        return None
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or "hub" not in value:
        return None
    if set(value) - HUB_KEYS or not {"revision", "split"} <= set(value):
        raise UserError(f"{path}: a pointer to the hub has the keys hub, revision, split and optionally name")
    if not re.fullmatch(r"[0-9a-f]{40}", str(value["revision"])):
        raise UserError(f"{path}: revision {value['revision']!r} is no commit of 40 hex digits")
    return value
