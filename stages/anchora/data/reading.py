"""Data files as ``datasets`` reads them: JSON, JSON Lines, CSV, Parquet, or a pointer to a data set on the hub.

Every row is read with its location, ``file:row`` with rows counted from 1, so that later errors can point at it.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import datasets
import pandas as pd

from anchora.run.errors import UserError

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
HUB_KEYS = {"hub", "revision", "split", "name"}
NO_ROWS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\[\s*\])?\s*")  # white space or an empty list, maybe behind a byte order mark


def read_rows(path: str, convert: Callable[[dict, str], dict], may_be_empty: bool = False) -> list[dict]:
    """Read every row of a file through ``convert(row, location)``, one of ``formats``.

    The file is JSON (a list or one object a line), CSV or Parquet, or a pointer to a data set on the
    hub: ``{"hub": "openai/gsm8k", "name": "main", "revision": "<40 hex>", "split": "test"}``.
    Raises UserError for a file that cannot be read, for a bad row, and for a file of no rows unless it ``may_be_empty``.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    if may_be_empty and NO_ROWS.fullmatch(Path(path).read_bytes()):
        return []
    if Path(path).stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; expected at least one row")
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise UserError(f"{path}: unknown kind of file {suffix!r}; expected one of {', '.join(READERS)}")
    datasets.disable_progress_bars()
    datasets.disable_caching()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it prints a failure before raising it
    with tempfile.TemporaryDirectory() as cache:
        table = _load(path, READERS[suffix], cache)
        if len(table) == 0 and not may_be_empty:
            raise UserError(f"{path}: no rows; expected at least one")
        return [convert(row, f"{path}:{number}") for number, row in enumerate(table, start=1)]


def _load(path: str, reader: str, cache: str) -> datasets.Dataset:
    """Load a file, or what it points to, by one of the READERS; raises UserError with the cause in one line."""
    try:
        pointer = _hub_pointer(path) if reader == "json" else None
        if pointer:
            return datasets.load_dataset(pointer["hub"], pointer.get("name"), revision=pointer["revision"], split=pointer["split"])
        options = {}
        if reader == "json":
            _refuse_repeated_keys(path)
        if reader == "csv":  # holds text: a column of numbers is not to become numbers
            _refuse_uneven_rows(path)
            columns = pd.read_csv(path, nrows=0).columns
            options = {"features": datasets.Features(dict.fromkeys(columns, datasets.Value("string"))), "keep_default_na": False}
        return datasets.load_dataset(reader, data_files=path, split="train", cache_dir=cache, **options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {_why_unreadable(path, reader, error)}") from None


def _refuse_repeated_keys(path: str) -> None:
    """Raise UserError where a JSON object gives a key twice: which of the two was meant?"""

    def object_of(pairs: list[tuple]) -> dict:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{path}: field {key!r} stands twice in one row; keep one of them")
        return dict(pairs)

    with open(path, encoding="utf-8-sig") as file, suppress(json.JSONDecodeError, RecursionError):  # broken JSON is reported later
        if file.read(64).lstrip().startswith("["):
            file.seek(0)
            json.load(file, object_pairs_hook=object_of)
            return
        file.seek(0)
        for line in file:
            if line.strip():
                json.loads(line, object_pairs_hook=object_of)


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
    except ValueError:
        return None
    if not isinstance(value, dict) or "hub" not in value:
        return None
    if set(value) - HUB_KEYS or not {"revision", "split"} <= set(value):
        raise UserError(f"{path}: a pointer to the hub has the keys hub, revision, split and optionally name")
    if not re.fullmatch(r"[0-9a-f]{40}", str(value["revision"])):
        raise UserError(f"{path}: revision {value['revision']!r} is no commit of 40 hex digits")
    return value


def _why_unreadable(path: str, reader: str, error: Exception) -> str:
    """Say in one line why a file cannot be read; for JSON with the line and column that a JSON parser stumbles over."""
    content = Path(path).read_bytes()
    if reader != "parquet":
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as bad:
            return f"not UTF-8 at byte {bad.start}; save the file as UTF-8"
    if reader == "json":
        broken = _broken_json(text)
        if broken:
            return broken
        if NO_ROWS.fullmatch(content):
            return "no rows; expected at least one"
    cause = error.__cause__ or error
    return f"cannot be read as {reader}: {' '.join(str(cause).split())[:300]}"


def _broken_json(text: str) -> str | None:
    """Say what is wrong with a JSON text, a list or else one value a line; None if it is well-formed."""
    if text.lstrip().startswith("["):
        try:
            json.loads(text)
        except ValueError as error:
            return f"broken JSON: {error}"
        except RecursionError:
            return "JSON nested too deeply; expected a list of rows"
        return None
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            json.loads(line or "null")
        except ValueError as error:
            return f"broken JSON in line {number}: {error}"
        except RecursionError:
            return f"JSON nested too deeply in line {number}; expected a row"
    return None
