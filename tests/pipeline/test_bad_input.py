"""Files as people really have them: what is unusual is read, what is broken gets one line with its place and its cure."""

import json
import random

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchora.data import formats
from anchora.data.reading import read_rows
from anchora.run.errors import UserError

ROW = {"prompt": "a", "completion": "b"}
JSON, LINES, CSV, PARQUET = "data.json", "data.jsonl", "data.csv", "data.parquet"


def parquet(rows, tmp_path) -> bytes:
    path = tmp_path / "whole.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path.read_bytes()


def pair(label: str) -> str:
    return f'[{{"prompt": "a", "response_a": "b", "response_b": "c", "label": {label}}}]'


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

REFUSED = {
    "list cut": (JSON, json.dumps([ROW] * 5).encode()[:-10], ["broken JSON", "column"]),
    "lines cut": (LINES, (json.dumps(ROW) + "\n").encode() * 3 + b'{"prompt": "a", "comp', ["broken JSON in line 4"]),
    "UTF-16": (JSON, json.dumps([ROW]).encode("utf-16"), ["not UTF-8 at byte 0", "save the file as UTF-8"]),
    "UTF-16 CSV": (CSV, "prompt,completion\na,b\n".encode("utf-16"), ["not UTF-8 at byte 0"]),
    "Latin-1 CSV": (CSV, "prompt,completion\ncaf\u00e9,b\n".encode("latin-1"), ["not UTF-8 at byte 21"]),
    "a raw NUL": (JSON, b'[{"prompt": "a\0b", "completion": "c"}]', ["Invalid control character"]),
    "nested too deeply": (JSON, b"[" * 5000 + b"]" * 5000, ["nested too deeply"]),
    "a deep field": (JSON, b'[{"prompt":' + b"[" * 500 + b"]" * 500 + b',"completion":"c"}]', ["cannot be read"]),
    "a key twice, list": (JSON, b'[{"prompt":"a","prompt":"z","completion":"b"}]', ["'prompt' stands twice"]),
    "a key twice, lines": (LINES, b'{"prompt":"a","prompt":"z","completion":"b"}\n', ["'prompt' stands twice"]),
    "a key twice behind a blank line": (LINES, json.dumps(ROW).encode() + b'\n\n{"prompt":"a","prompt":"z"}\n', ["'prompt' stands twice"]),
    "lines cut behind a BOM": (LINES, b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b'\n{"prompt": "a', ["broken JSON in line 2"]),
    "NaN for text": (JSON, b'[{"prompt":"a","completion":NaN}]', [":1: field 'completion' is missing"]),
    "a number for text": (JSON, b'[{"prompt":"a","completion":5}]', [":1: field 'completion': expected text, found int"]),
    "an empty response": (JSON, b'[{"prompt":"a","completion":""}]', [":1: field 'completion': expected text, found nothing"]),
    "only whitespace": (JSON, b'[{"prompt":" \\t\\n","completion":"b"}]', [":1: field 'prompt': expected text, found nothing"]),
    "half a surrogate pair": (JSON, b'[{"prompt":"\\ud800","completion":"b"}]', [":1: field 'prompt'"]),
    "numbers for rows": (JSON, b"[1,2,3]", [":1: expected prompt and completion"]),
    "texts for rows": (JSON, b'["a","b"]', [":1: expected prompt and completion"]),
    "one number": (JSON, b"5", ["cannot be read as json"]),
    "null for a row": (JSON, b"[null]", [":1: expected prompt and completion"]),
    "blank lines alone": (LINES, b"   \n\n", ["broken JSON in line 1"]),
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
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_unusual_files_are_read(tmp_path, name):
    file, data, count = ACCEPTED[name]
    (tmp_path / file).write_bytes(data)
    rows = read_rows(str(tmp_path / file), formats.sft_row)
    assert len(rows) == count
    assert all(row["prompt"][-1]["content"] and row["completion"] for row in rows)


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


def test_a_parquet_file_that_was_cut(tmp_path):
    (tmp_path / PARQUET).write_bytes(parquet([ROW] * 100, tmp_path)[:-20])
    assert "cannot be read as parquet" in refusal(tmp_path / PARQUET, formats.sft_row)


@pytest.mark.parametrize("label", ["NaN", "1e400", "null", "true", '"A"', "[1]", "1.0001", "-0.1"])
def test_labels_that_are_none(tmp_path, label):
    (tmp_path / JSON).write_text(pair(label))
    assert ":1: field 'label'" in refusal(tmp_path / JSON, formats.preference_row)


@pytest.mark.parametrize(("label", "value"), [("1", 1.0), ("0", 0.0), ('"0.5"', 0.5), ("1e-3", 0.001)])
def test_labels_as_people_write_them(tmp_path, label, value):
    (tmp_path / JSON).write_text(pair(label))
    assert read_rows(str(tmp_path / JSON), formats.preference_row)[0]["label"] == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    "prompt completion messages instruction input output chosen rejected response_a response_b label question answer".split()
)
CONVERTERS = [
    formats.sft_row, formats.preference_row, formats.prompt_row, formats.gsm8k_row, formats.alpaca_eval_row, formats.mt_bench_row,
]  # fmt: skip


@given(row=st.dictionaries(FIELDS, VALUES, max_size=5), convert=st.sampled_from(CONVERTERS))
@settings(max_examples=600, deadline=None)
def test_any_row_is_read_or_refused_in_one_line(row, convert):
    try:
        found = convert(row, "data.json:1")
    except UserError as error:
        assert "data.json:1" in str(error)
    else:
        assert found["prompt"][-1]["role"] == "user" and found["source"] == "data.json:1"


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
