"""JSON and JSON Lines row by row: no type is guessed, and no row depends on those before it."""

import json

import pytest

from anchora.data import formats
from anchora.data.json_rows import json_rows
from anchora.data.reading import read_rows
from anchora.run.errors import UserError

DATES = ["2024-01-31", "2024-01-31T10:00:00", "2024-01-31 10:00:00+02:00", "10:30:00"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("rest", [[], ["three days later"]])
def test_dates_in_quotes_stay_text(tmp_path, name, rest):
    rows = [{"prompt": "When?", "completion": text, "seen": [[text, text]]} for text in DATES * 3 + rest]
    (tmp_path / name).write_text(json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows)))
    assert [row["completion"] for row in read_rows(str(tmp_path / name), formats.sft_row)] == DATES * 3 + rest
    assert next(json_rows(str(tmp_path / name)))["seen"] == [[DATES[0], DATES[0]]]


def test_late_rows_may_have_other_types_and_keys(tmp_path):
    """A reader of tables takes types and columns from the first ten megabytes alone."""
    path = tmp_path / "a.jsonl"
    filler = {"id": 1, "instruction": "x" * 2000, "history": [], "input": "", "output": "y"}
    late = {"id": "text", "instruction": "a", "history": [["b", "c"]], "system": "d", "output": "e", "more": {"key": 0.5}}
    with open(path, "w") as file:
        file.writelines(json.dumps(filler) + "\n" for _ in range(5300))
        file.write(json.dumps(late) + "\n")
    assert path.stat().st_size > 10 * 2**20
    last = read_rows(str(path), formats.sft_row)[-1]
    assert [message["content"] for message in last["prompt"]] == ["d", "b", "c", "a"] and last["source"].endswith(":5301")


def test_labels_may_become_fractions_late(tmp_path):
    path = tmp_path / "a.jsonl"
    pair = {"prompt": "p" * 2000, "response_a": "a", "response_b": "b"}
    path.write_text(
        "".join(json.dumps({**pair, "label": number % 2}) + "\n" for number in range(6000)) + json.dumps({**pair, "label": 0.5})
    )
    assert read_rows(str(path), formats.preference_row)[-1]["label"] == 0.5


def test_late_messages_may_have_other_roles_and_keys(tmp_path):
    path = tmp_path / "a.jsonl"
    said = [{"role": "user", "content": "x" * 3000}, {"role": "assistant", "content": "y"}]
    late = [{"role": "system", "content": "Be brief.", "name": "s"}, *({**message, "weight": 0.5} for message in said)]
    lines = [json.dumps({"messages": said}) + "\n"] * 4000 + [json.dumps({"messages": late})]
    path.write_text("".join(lines))
    rows = read_rows(str(path), formats.sft_row)
    assert [[message["role"] for message in row["prompt"]] for row in rows[-2:]] == [["user"], ["system", "user"]]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_only_a_line_feed_ends_a_line(tmp_path, sign):
    path = tmp_path / "a.jsonl"
    good = json.dumps({"prompt": f"a{sign}b", "completion": "c"}, ensure_ascii=False).replace("\x0b", "\\u000b").replace("\x0c", "\\u000c")
    path.write_text(f'{good}\n{good}\n{{"prompt": \n', encoding="utf-8")
    with pytest.raises(UserError, match="broken JSON in line 3"):
        list(json_rows(str(path)))


def test_rows_may_go_over_several_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"{number}", "completion": "c"}, indent=2) for number in range(3)))
    assert [row["prompt"] for row in json_rows(str(path))] == ["0", "1", "2"]
