"""A written buffer against the types of regret/buffer.py: every field is there, none is unknown, each is of its type."""

import copy
import shutil
import subprocess
import sys
from typing import get_type_hints

import pytest
from buffer_rows import small_rows
from conftest import environment
from pydantic import TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from anchora.regret.buffer import Anchor, Case, Known, buffer_line, read_buffer, write_buffer
from anchora.run.files import read_jsonl, write_jsonl

KINDS = {"case": Case, "anchor": Anchor, "known": Known}


def check(row: dict) -> None:
    """Raise ValueError where a row is not what a written buffer holds."""
    kind = KINDS[row["kind"]]
    TypeAdapter(kind).validate_python(row)
    if missing := missing_fields(row, kind):
        raise ValueError(f"missing: {missing}")
    for response in (row[name] for name in ("chosen", "rejected", "response") if name in row):
        if any(len(response[name]) != len(response["ids"]) for name in {"reference_logps", "entropies", "pieces"} & set(response)):
            raise ValueError("not one value for each token")


def missing_fields(row: dict, kind: type) -> list[str]:
    """Names of fields that a row lacks, those of its responses included: what is NotRequired while a row is made is written in the end."""
    fields = get_type_hints(kind)
    inner = [(name, field) for name, field in fields.items() if is_typeddict(field) and name in row]
    return [name for name in fields if name not in row] + [
        f"{name}.{lacking}" for name, field in inner for lacking in missing_fields(row[name], field)
    ]


@pytest.fixture
def rows(tmp_path) -> list[dict]:
    """The small buffer as it is written: anchors, cases, a known response."""
    write_buffer(tmp_path / "round0.jsonl", small_rows())
    return read_jsonl(tmp_path / "round0.jsonl")


def paths_of(row: dict, names: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The way to every field of a row and of its responses."""
    found = [(*names, name) for name in row]
    for name in ("chosen", "rejected", "response"):
        if name in row:
            found += paths_of(row[name], (name,))
    return found


def changed(row: dict, path: tuple[str, ...], value=...) -> dict:
    """A copy of a row with another value at ``path``, or without that field."""
    row = copy.deepcopy(row)
    *outer, name = path
    place = row
    for key in outer:
        place = place[key]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return row


def test_a_small_buffer_is_as_the_types_say(rows):
    assert [row["kind"] for row in rows] == ["anchor", "anchor", "case", "case", "known"]
    for row in rows:
        check(row)


def test_rows_are_sorted_by_kind_and_id_and_read_as_written(rows, tmp_path):
    buffer = read_buffer(tmp_path / "round0.jsonl")
    assert [*buffer.anchors, *buffer.cases, *buffer.known] == rows == sorted(rows, key=lambda row: (row["kind"], row["id"]))
    assert buffer == small_rows()
    assert buffer_line(buffer.cases[0]) == ([1, 3, 4], [5, 6, 2], [5, 6, 2])
    assert buffer_line(buffer.anchors[0]) == ([1, 3, 4], [5, 6, 2])


def test_a_missing_field_is_noticed(rows):
    for row in rows:
        for path in paths_of(row):
            with pytest.raises((ValueError, KeyError)):
                check(changed(row, path))


def test_an_unknown_field_is_noticed(rows):
    for row in rows:
        for path in [("more",), *((name, "more") for name in ("chosen", "rejected", "response") if name in row)]:
            with pytest.raises(ValidationError, match="more"):
                check(changed(row, path, 1.0))


def test_a_value_of_the_wrong_type_is_noticed(rows):
    """No field takes an object without fields; some more that are close to what is allowed."""
    for row in rows:
        for path in paths_of(row):
            with pytest.raises((ValueError, KeyError, TypeError)):
                check(changed(row, path, [{}] if path == ("parts",) else {}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("round",), 0.5),
        (("round",), -1),
        (("held_out",), 1),
        (("uncertainty",), 1.5),
        (("uncertainty",), "0.5"),
        (("regret",), 0.0),
        (("source",), "elsewhere"),
        (("id",), "17"),
        (("chosen_right",), 2.0),
        (("priority",), None),
        (("prompt_ids",), [1, 2.5]),
        (("chosen", "ids"), []),
        (("chosen", "ids"), [True]),
        (("rejected", "reference_logps"), [-0.5, -1.0]),
        (("rejected", "pieces"), ["3", 4, ""]),
        (("parts",), {"token_entropy": "high"}),
    ],
)
def test_a_value_out_of_its_range_is_noticed(rows, path, value):
    case = rows[2]
    with pytest.raises(ValueError):
        check(changed(case, path, value))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_buffer_of_the_pipeline_is_as_the_types_say(ran, number):
    rows = read_jsonl(ran / f"data/regret_buffer/round{number}.jsonl")
    assert {"case", "anchor"} <= {row["kind"] for row in rows}
    for row in rows:
        check(row)
    assert sum(row["priority"] for row in rows if row["kind"] == "case") == pytest.approx(1)


@pytest.mark.slow
def test_a_buffer_with_responses_from_the_data_is_as_the_types_say(ran, tmp_path):
    """The demo's data bring none: here the first ten prompts have one each."""
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(".dvc"))
    prompts = read_jsonl(ran / "data/responses/round0.jsonl")[:10]
    known = [{"id": prompt["id"], "response": "So it is 7. #### 7", "from": "reference"} for prompt in prompts]
    for name in ("sft", "round0"):
        (tmp_path / f"data/regret_buffer/{name}.jsonl").unlink()
    write_jsonl(tmp_path / "data/regret_buffer/sft.jsonl", known)
    command = [sys.executable, "stages/build_regret_buffer.py", "--round", "0", "--after", "sft"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "data/regret_buffer/round0.jsonl")
    for row in rows:
        check(row)
    assert [row["id"] for row in rows if row["kind"] == "known"] == sorted(row["id"] for row in known)
