"""Cells that hold messages, and columns that would change a prompt."""

import csv
import json

import pytest

from anchora.data import formats
from anchora.data.reading import read_rows
from anchora.run.errors import UserError

ASKED = [{"role": "user", "content": "Why?"}]
SAID = [*ASKED, {"role": "assistant", "content": "So."}]


def read_csv(path, convert, **cells) -> list[dict]:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([cells, cells.values()])
    return read_rows(str(path), convert)


def test_cells_of_messages_are_read_as_messages(tmp_path):
    (row,) = read_csv(tmp_path / "a.csv", formats.preference_row, prompt=json.dumps(ASKED), chosen=json.dumps(SAID), rejected="No.")
    assert row["prompt"] == ASKED and (row["response_a"], row["response_b"]) == ("So.", "No.")
    (row,) = read_csv(tmp_path / "a.csv", formats.sft_row, messages=json.dumps(SAID))
    assert row["prompt"] == ASKED and row["completion"] == "So."


def test_one_message_in_a_cell_is_a_message(tmp_path):
    said = [{"from": "gpt", "value": text} for text in ("So.", "No.")]
    cells = {
        "conversations": json.dumps([{"from": "human", "value": "Why?"}]),
        "chosen": json.dumps(said[0]),
        "rejected": json.dumps(said[1:]),
    }
    (row,) = read_csv(tmp_path / "a.csv", formats.preference_row, **cells)
    assert row["prompt"] == ASKED and (row["response_a"], row["response_b"]) == ("So.", "No.")


@pytest.mark.parametrize(("history", "turns"), [("[]", 1), ("", 1), ('[["a", "b"]]', 3)])
def test_a_history_in_a_cell_is_read(tmp_path, history, turns):
    (row,) = read_csv(tmp_path / "a.csv", formats.sft_row, instruction="Go on.", history=history, output="Done.")
    assert len(row["prompt"]) == turns


@pytest.mark.parametrize("cell", ["[{'role': 'user', 'content': 'Why?'}]", '[{"role": "user", "content": "Why?"'])
def test_a_cell_of_broken_messages_is_refused(tmp_path, cell):
    with pytest.raises(UserError, match="a.csv:1: field 'prompt': it begins like a list of messages and is no JSON"):
        read_csv(tmp_path / "a.csv", formats.sft_row, prompt=cell, completion="So.")


@pytest.mark.parametrize("field", ["chosen", "rejected", "prompt", "conversations", "history"])
def test_a_cell_of_broken_messages_is_refused_in_every_column(tmp_path, field):
    """Python writes lists with quotes of its own, which pandas puts into CSV files."""
    cells = {"instruction" if field == "history" else "prompt": "Why?", "chosen": "So.", "rejected": "No."}
    with pytest.raises(UserError, match=f"a.csv:1: field '{field}': it begins like a list of messages and is no JSON"):
        read_csv(tmp_path / "a.csv", formats.preference_row, **cells | {field: str(ASKED)})


@pytest.mark.parametrize("text", ["[Verse 1] La la", "[1, 2, 3]", '{"json": "is what I want"}', "[]"])
def test_a_text_that_begins_with_a_bracket_stays_text(tmp_path, text):
    (row,) = read_csv(tmp_path / "a.csv", formats.sft_row, prompt=text, completion=text)
    assert row["prompt"][0]["content"] == text == row["completion"]


@pytest.mark.parametrize("column", ["documents", "images", "audios", "videos"])
@pytest.mark.parametrize(
    ("value", "refused"), [(["x"], True), ('[{"a": 1}]', True), ([], False), (None, False), ("[]", False), ("", False)]
)
def test_columns_that_change_the_prompt_are_refused_unless_empty(column, value, refused):
    row = {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}], column: value}
    if refused:
        with pytest.raises(UserError, match=f"a.json:7: field '{column}': it would change what the policy reads"):
            formats.sft_row(row, "a.json:7")
    else:
        assert formats.sft_row(row, "a.json:7")["completion"] == "So."


def test_a_blank_input_is_none():
    assert formats.sft_row({"instruction": "Go.", "input": " ", "output": "Done."}, "a:1")["prompt"][0]["content"] == "Go."


def test_white_space_around_a_prompt_makes_no_difference():
    row = {"prompt": "Why? ", "chosen": SAID, "rejected": [*ASKED, {"role": "assistant", "content": "No."}]}
    assert formats.preference_row(row, "a:1")["response_a"] == "So."
    other = {"prompt": "Why  not?", "chosen": [{"role": "user", "content": "Why not?"}, SAID[1]], "rejected": "No."}
    with pytest.raises(UserError, match="differ from the prompt's in white space alone"):
        formats.preference_row(other, "a:1")
