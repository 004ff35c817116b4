"""Data files as people really have them: what is unusual is read, what is broken gets one line with its place and its cure."""

import json
import random

import pandas as pd
import pytest
from conftest import REAL, ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchora.data import formats
from anchora.data.reading import read_rows
from anchora.run.errors import UserError

USER = [{"role": "user", "content": "2 + 2?"}]
ROW = {"prompt": "a", "completion": "b"}
JSON, LINES, CSV, PARQUET = "data.json", "data.jsonl", "data.csv", "data.parquet"


def write(path, rows) -> str:
    """The rows in the format that the file's name asks for."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("name", [JSON, LINES, CSV, PARQUET])
@pytest.mark.parametrize(
    "row",
    [{"prompt": "2 + 2?", "completion": "4"}, {"instruction": "2 + 2?", "input": "", "output": "4"}],
    ids=["prompt", "instruction"],
)
def test_a_row_is_the_same_in_every_kind_of_file(tmp_path, name, row):
    found = read_rows(write(tmp_path / name, [row, row]), formats.sft_row)
    assert [(r["prompt"], r["completion"]) for r in found] == [(USER, "4")] * 2
    assert found[1]["source"] == f"{tmp_path / name}:2"


@pytest.mark.parametrize("name", [JSON, LINES, PARQUET])
def test_messages_are_the_same_in_every_kind_of_file(tmp_path, name):
    messages = [{"role": "system", "content": "Be short."}, *USER, {"role": "assistant", "content": "4"}]
    (found,) = read_rows(write(tmp_path / name, [{"messages": messages}]), formats.sft_row)
    assert found["prompt"] == messages[:2]
    assert found["completion"] == "4"


@pytest.mark.parametrize("name", [JSON, CSV, PARQUET])
def test_labels_are_numbers_in_every_kind_of_file(tmp_path, name):
    rows = [{"prompt": "2 + 2?", "response_a": "4", "response_b": "5", "label": label} for label in (1, 0, 0.7)]
    found = read_rows(write(tmp_path / name, rows), formats.preference_row)
    assert [row["label"] for row in found] == [1.0, 0.0, 0.7]
    assert all(row["sided"] for row in found)


@pytest.mark.parametrize("content", [b"", b" \n", b"[]", b"[\n]", b"\xef\xbb\xbf", b"\xef\xbb\xbf[ ]\n"])
def test_a_file_that_may_be_empty_may_be_an_empty_list(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert read_rows(str(tmp_path / "a.json"), formats.prompt_row, may_be_empty=True) == []
    with pytest.raises(UserError, match="a.json"):
        read_rows(str(tmp_path / "a.json"), formats.prompt_row)


def test_the_file_that_stands_for_no_data_has_no_rows():
    """presets/own-data.yaml names it; it is not empty, of which DVC would warn."""
    path = ROOT / "data" / "no_data_of_this_kind.jsonl"
    assert path.stat().st_size and read_rows(str(path), formats.prompt_row, may_be_empty=True) == []


ACCEPTED = {
    "byte order mark, list": (JSON, b"\xef\xbb\xbf" + json.dumps([ROW]).encode(), 1),
    "byte order mark, lines": (LINES, b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\n", 1),
    "byte order mark, CSV": (CSV, b"\xef\xbb\xbfprompt,completion\na,b\n", 1),
    "CRLF, lines": (LINES, (json.dumps(ROW) + "\r\n").encode() * 2, 2),
    "CRLF, CSV": (CSV, b"prompt,completion\r\na,b\r\n", 1),
    "no newline at the end": (LINES, json.dumps(ROW).encode(), 1),
    "quoted commas and newlines": (CSV, b'prompt,completion\n"a, or\nb","c ""d"""\n', 1),
    "escaped NUL": (JSON, b'[{"prompt": "a\\u0000b", "completion": "c"}]', 1),
    "a field of 10 MB": (JSON, json.dumps([{"prompt": "x" * 10_000_000, "completion": "c"}]).encode(), 1),
    "a CSV field of 2 MB": (CSV, b"prompt,completion\n" + b"x" * 2_000_000 + b",c\n", 1),
    "emoji and right-to-left text": (JSON, '[{"prompt": "\U0001f642 \u05e9\u05dc\u05d5\u05dd", "completion": "\U0001f44d"}]'.encode(), 1),
    "rows of two kinds": (JSON, json.dumps([ROW, {"instruction": "x", "output": "y"}]).encode(), 2),
    "prompts of two types": (LINES, (json.dumps(ROW) + '\n{"prompt": [{"role": "user", "content": "q"}], "completion": "y"}').encode(), 2),
    "more columns than needed": (CSV, b"id,prompt,completion\n1,a,b\n", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_unusual_files_are_read(tmp_path, name):
    file, data, count = ACCEPTED[name]
    (tmp_path / file).write_bytes(data)
    rows = read_rows(str(tmp_path / file), formats.sft_row)
    assert len(rows) == count
    assert all(row["prompt"][-1]["content"] and row["completion"] for row in rows)


REFUSED = {
    "list cut": (JSON, json.dumps([ROW] * 5).encode()[:-10], ["broken JSON", "column"]),
    "lines cut": (LINES, (json.dumps(ROW) + "\n").encode() * 3 + b'{"prompt": "a", "comp', ["broken JSON in line 4"]),
    "UTF-16": (JSON, json.dumps([ROW]).encode("utf-16"), ["not UTF-8 at byte 0", "save the file as UTF-8"]),
    "UTF-16 CSV": (CSV, "prompt,completion\na,b\n".encode("utf-16"), ["not UTF-8 at byte 0"]),
    "Latin-1 CSV": (CSV, "prompt,completion\ncaf\u00e9,b\n".encode("latin-1"), ["not UTF-8 at byte 21"]),
    "a raw NUL": (JSON, b'[{"prompt": "a\0b", "completion": "c"}]', ["Invalid control character"]),
    "nested too deeply": (JSON, b"[" * 5000 + b"]" * 5000, ["nested too deeply"]),
    "a deep field": (JSON, b'[{"prompt":' + b"[" * 500 + b"]" * 500 + b',"completion":"c"}]', [":1: field 'prompt': expected messages"]),
    "a key twice, list": (JSON, b'[{"prompt":"a","prompt":"z","completion":"b"}]', ["'prompt' stands twice"]),
    "a key twice, lines": (LINES, b'{"prompt":"a","prompt":"z","completion":"b"}\n', ["'prompt' stands twice"]),
    "a key twice behind a blank line": (LINES, json.dumps(ROW).encode() + b'\n\n{"prompt":"a","prompt":"z"}\n', ["'prompt' stands twice"]),
    "lines cut behind a BOM": (LINES, b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b'\n{"prompt": "a', ["broken JSON in line 2"]),
    "NaN for text": (JSON, b'[{"prompt":"a","completion":NaN}]', [":1: field 'completion' is missing"]),
    "a number for text": (JSON, b'[{"prompt":"a","completion":5}]', [":1: field 'completion': expected text, found int"]),
    "an empty response": (JSON, b'[{"prompt":"a","completion":""}]', [":1: field 'completion': expected text, found nothing"]),
    "only whitespace": (JSON, b'[{"prompt":" \\t\\n","completion":"b"}]', [":1: field 'prompt': expected text, found nothing"]),
    "half a surrogate pair": (JSON, b'[{"prompt":"\\ud800","completion":"b"}]', [":1: field 'prompt'"]),
    "numbers for rows": (JSON, b"[1,2,3]", [":1: expected an object with fields, found 1"]),
    "texts for rows": (JSON, b'["a","b"]', [':1: expected an object with fields, found "a"']),
    "one number": (JSON, b"5", [":1: expected an object with fields, found 5"]),
    "null for a row": (JSON, b"[null]", [":1: expected an object with fields, found null"]),
    "blank lines alone": (LINES, b"   \n\n", ["no rows; expected at least one"]),
    "nothing at all": (LINES, b"", ["the file is empty"]),
    "an empty list": (JSON, b"[]", ["no rows"]),
    "a row with more fields": (CSV, b"prompt,completion\na,b,c\n", [":1: 3 fields, but the header has 2", "quotes"]),
    "a row with fewer fields": (CSV, b"prompt,completion\na,b\na\n", [":2: 1 fields, but the header has 2"]),
    "a header alone": (CSV, b"prompt,completion\n", ["no rows below the header"]),
    "a column twice": (CSV, b"prompt,prompt,completion\na,b,c\n", ["column 'prompt' stands twice"]),
    "an open quote": (CSV, b'prompt,completion\n"a,b\n', [":1: 1 fields"]),
    "JSON named CSV": (CSV, json.dumps([ROW]).encode(), ["no rows below the header"]),
    "parquet that is none": (PARQUET, b"hello", ["cannot be read as parquet"]),
    "zeros": (PARQUET, b"\0" * 100, ["cannot be read as parquet"]),
    "cut behind a comma": (JSON, b'[{"prompt": "a", ', ["broken JSON", "column"]),
    "lines in a list's file, cut": (JSON, b'{"prompt": "a", "completion": "b"}\n{"prompt": \n', ["broken JSON in line 2"]),
    "no UTF-8, list": (JSON, b'[{"prompt": "\xff\xfe"}]', ["not UTF-8 at byte"]),
    "no UTF-8, lines": (JSON, b'{"prompt": "a", "completion": "\xe9"}\n', ["not UTF-8 at byte 31"]),
    "a list's file of nothing": (JSON, b"", ["the file is empty"]),
    "a blank second row": (JSON, json.dumps([ROW, ROW | {"completion": " "}]).encode(), [":2:", "'completion'", "found nothing"]),
    "a pointer without a revision": (JSON, b'{"hub": "a/b", "split": "train"}', ["pointer"]),
    "a pointer to a branch": (JSON, b'{"hub": "a/b", "split": "train", "revision": "main"}', ["40 hex"]),
    "a pointer out of reach": (JSON, json.dumps({"hub": "a/b", "split": "train", "revision": "0" * 40}).encode(), [JSON]),
}  # fmt: skip


def refusal(path, convert) -> str:
    with pytest.raises(UserError) as error:
        read_rows(str(path), convert)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_broken_files_get_one_line(tmp_path, name):
    file, data, words = REFUSED[name]
    (tmp_path / file).write_bytes(data)
    text = refusal(tmp_path / file, formats.sft_row)
    for word in words:
        assert word in text


def test_a_file_that_is_not_there(tmp_path):
    assert "no such file" in refusal(tmp_path / JSON, formats.sft_row)


def test_a_folder_of_shards(tmp_path):
    assert "it is a folder; name one file" in refusal(tmp_path, formats.sft_row)


def test_unknown_kind_of_file(tmp_path):
    (tmp_path / "a.xml").write_text("<a/>")
    with pytest.raises(UserError, match=r"unknown kind of file '\.xml'"):
        read_rows(str(tmp_path / "a.xml"), formats.sft_row)


def parquet(rows, tmp_path) -> bytes:
    path = tmp_path / "whole.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path.read_bytes()


def test_a_parquet_file_that_was_cut(tmp_path):
    (tmp_path / PARQUET).write_bytes(parquet([ROW] * 100, tmp_path)[:-20])
    assert "cannot be read as parquet" in refusal(tmp_path / PARQUET, formats.sft_row)


@given(cut=st.floats(0, 1), flips=st.integers(0, 3), file=st.sampled_from([JSON, LINES, CSV]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_a_file_is_read_or_refused_in_one_line(tmp_path, cut, flips, file):
    whole = {JSON: json.dumps([ROW] * 4), LINES: (json.dumps(ROW) + "\n") * 4, CSV: "prompt,completion\n" + "a,b\n" * 4}[file]
    data, rng = bytearray(whole.encode()[: int(cut * len(whole))]), random.Random(flips)
    for _ in range(flips if data else 0):
        data[rng.randrange(len(data))] = rng.randrange(256)
    (tmp_path / file).write_bytes(bytes(data))
    try:
        read_rows(str(tmp_path / file), formats.sft_row)
    except UserError as error:
        assert str(tmp_path / file) in str(error) and "\n" not in str(error)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not here")
@pytest.mark.parametrize(
    ("name", "convert", "count"),
    [
        ("alpaca_en_demo.json", formats.sft_row, 999),
        ("dpo_en_demo.json", formats.preference_row, 300),
        ("gsm8k_test.jsonl", formats.gsm8k_row, 1319),
        ("gsm8k_train_1500.jsonl", formats.gsm8k_row, 1500),
        ("mt_bench_question.jsonl", formats.mt_bench_row, 80),
        ("alpaca_eval_gpt4_1106_model_outputs.json", formats.alpaca_eval_row, 805),
    ],
)
def test_real_files_are_read_whole(name, convert, count):
    rows = read_rows(str(REAL / name), convert)
    assert len(rows) == count
    assert all(row["prompt"][-1]["role"] == "user" and row["prompt"][-1]["content"] for row in rows)
