"""Data files in every format, and the line that a bad one gets."""

import json

import pandas as pd
import pytest
from conftest import REAL

from anchora.data import formats
from anchora.data.reading import read_rows
from anchora.data.splits import flip_side, prompt_id, split_share, unique_rows
from anchora.run.errors import UserError

USER = [{"role": "user", "content": "2 + 2?"}]


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


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize(
    "row",
    [{"prompt": "2 + 2?", "completion": "4"}, {"instruction": "2 + 2?", "input": "", "output": "4"}],
    ids=["prompt", "instruction"],
)
def test_sft_in_every_file_format(tmp_path, name, row):
    found = read_rows(write(tmp_path / name, [row, row]), formats.sft_row)
    assert [(r["prompt"], r["completion"]) for r in found] == [(USER, "4")] * 2
    assert found[1]["source"] == f"{tmp_path / name}:2"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_sft_messages(tmp_path, name):
    messages = [{"role": "system", "content": "Be short."}, *USER, {"role": "assistant", "content": "4"}]
    (found,) = read_rows(write(tmp_path / name, [{"messages": messages}]), formats.sft_row)
    assert found["prompt"] == messages[:2]
    assert found["completion"] == "4"


def test_instruction_with_input(tmp_path):
    row = {"instruction": "Add.", "input": "2 and 2", "output": "4"}
    (found,) = read_rows(write(tmp_path / "a.json", [row]), formats.sft_row)
    assert found["prompt"][0]["content"] == "Add.\n\n2 and 2"


def test_an_instruction_follows_on_its_history(tmp_path):
    row = {"system": "Be short.", "history": [["2 + 2?", "4"]], "instruction": "And twice that?", "output": "8"}
    (found,) = read_rows(write(tmp_path / "a.json", [row]), formats.sft_row)
    assert [(message["role"], message["content"]) for message in found["prompt"]] == [
        ("system", "Be short."), ("user", "2 + 2?"), ("assistant", "4"), ("user", "And twice that?"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="field 'history': expected pairs"):
        read_rows(write(tmp_path / "b.json", [row | {"history": ["2 + 2?"]}]), formats.sft_row)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet"])
def test_preferences_with_labels(tmp_path, name):
    rows = [{"prompt": "2 + 2?", "response_a": "4", "response_b": "5", "label": label} for label in (1, 0, 0.7)]
    found = read_rows(write(tmp_path / name, rows), formats.preference_row)
    assert [row["label"] for row in found] == [1.0, 0.0, 0.7]
    assert all(row["sided"] for row in found)


def test_chosen_and_rejected_get_their_sides_by_seed():
    rows = [formats.preference_row({"prompt": f"{i}?", "chosen": "4", "rejected": "5"}, "a:1") for i in range(200)]
    rows = [{**row, "id": prompt_id(row["prompt"])} for row in rows]
    flipped = [flip_side(row, 0) for row in rows]
    assert 60 < sum(row["label"] for row in flipped) < 140
    assert all((row["response_a"] == "4") == (row["label"] == 1.0) for row in flipped)
    assert flipped == [flip_side(row, 0) for row in rows]
    assert flipped != [flip_side(row, 1) for row in rows]


def test_conversations_form():
    row = {
        "conversations": [{"from": "human", "value": "2 + 2?"}],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    }
    found = formats.preference_row(row, "a:1")
    assert (found["prompt"], found["response_a"], found["response_b"]) == (USER, "4", "5")


def test_a_system_column_comes_first_in_every_format():
    system, conversation = {"role": "system", "content": "Be short."}, {"conversations": [{"from": "human", "value": "2 + 2?"}]}
    answered = {"conversations": [*conversation["conversations"], {"from": "gpt", "value": "4"}]}
    for convert, row in (
        (formats.sft_row, answered),
        (formats.sft_row, {"prompt": "2 + 2?", "completion": "4"}),
        (formats.preference_row, conversation | {"chosen": "4", "rejected": "5"}),
        (formats.prompt_row, {"question": "2 + 2?"}),
    ):
        assert convert(row | {"system": ""}, "a:1")["prompt"] == USER
        assert convert(row | {"system": "Be short."}, "a:1")["prompt"] == [system, *USER]
    own = {"messages": [system, *USER, {"role": "assistant", "content": "4"}], "system": "Be long."}
    assert formats.sft_row(own, "a:1")["prompt"] == [system, *USER]


def test_a_prompt_that_stands_in_chosen_and_rejected_alone():
    """TRL's implicit prompts: both begin with the same messages."""
    ours, theirs = ([*USER, {"role": "assistant", "content": text}] for text in ("4", "5"))
    row = formats.preference_row({"chosen": ours, "rejected": theirs}, "a:1")
    assert (row["prompt"], row["response_a"], row["response_b"], row["label"]) == (USER, "4", "5", 1.0)
    other = [{"role": "user", "content": "3 + 3?"}, theirs[-1]]
    with pytest.raises(UserError, match="a:1: field 'rejected': expected the prompt's messages"):
        formats.preference_row({"chosen": ours, "rejected": other}, "a:1")


@pytest.mark.parametrize("content", [b"", b" \n", b"[]", b"[\n]", b"\xef\xbb\xbf", b"\xef\xbb\xbf[ ]\n"])
def test_a_file_that_may_be_empty_may_be_an_empty_list(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert read_rows(str(tmp_path / "a.json"), formats.prompt_row, may_be_empty=True) == []
    with pytest.raises(UserError, match="a.json"):
        read_rows(str(tmp_path / "a.json"), formats.prompt_row)


SFT, PREFERENCE, PROMPT, GSM8K, MT = (
    formats.sft_row, formats.preference_row, formats.prompt_row, formats.gsm8k_row, formats.mt_bench_row,
)  # fmt: skip
PAIR = {"prompt": "2 + 2?", "response_a": "4", "response_b": "5"}


@pytest.mark.parametrize(
    ("convert", "content", "words"),
    [
        (SFT, None, ["no such file"]),
        (SFT, "", ["the file is empty"]),
        (SFT, "[]", ["no rows"]),
        (SFT, '[{"prompt": "a", ', ["broken JSON", "column"]),
        (SFT, '{"prompt": "a", "completion": "b"}\n{"prompt": \n', ["broken JSON in line 2"]),
        (SFT, b'[{"prompt": "\xff\xfe"}]', ["not UTF-8 at byte"]),
        (SFT, b'{"prompt": "a", "completion": "\xe9"}\n', ["not UTF-8 at byte 31"]),
        (SFT, [{"prompt": "a"}], ["a.json:1", "'completion'", "missing"]),
        (SFT, [{"question": "a"}], ["a.json:1", "the row has question"]),
        (SFT, [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}], ["a.json:2", "'completion'", "found nothing"]),
        (SFT, [{"prompt": "a", "completion": 5}], ["a.json:1", "'completion'", "expected text, found int"]),
        (SFT, [{"messages": USER}], ["a.json:1", "'messages'", "assistant's message last"]),
        (SFT, [{"messages": [{"role": "robot", "content": "x"}] * 2}], ["a.json:1", "role"]),
        (PREFERENCE, [{**PAIR, "label": 1.5}], ["a.json:1", "'label'", "from 0", "1.5"]),
        (PREFERENCE, [{**PAIR, "label": -1}], ["a.json:1", "'label'"]),
        (PREFERENCE, [{**PAIR, "label": "A"}], ["a.json:1", "'label'", "'A'"]),
        (PREFERENCE, [PAIR], ["a.json:1", "'label'", "None"]),
        (PREFERENCE, [{"prompt": "a", "chosen": "b"}], ["a.json:1", "'rejected'", "missing"]),
        (PREFERENCE, [{"chosen": "a", "rejected": "b"}], ["a.json:1", "'prompt'", "the row has chosen, rejected", "cut in two"]),
        (PROMPT, [{"text": "a"}], ["a.json:1", "'prompt'"]),
        (GSM8K, [{"prompt": "a", "answer": "#### 4"}], ["a.json:1", "'question' is missing; the row has answer, prompt"]),
        (GSM8K, [{"question": "a", "answer": "four"}], ["a.json:1", "'answer'", "####"]),
        (MT, [{"question_id": 1, "category": "math", "turns": []}], ["a.json:1", "'turns'"]),
        (MT, [{"question_id": "x", "category": "math", "turns": ["a"]}], ["a.json:1", "'question_id'"]),
        (SFT, {"hub": "a/b", "split": "train"}, ["pointer"]),
        (SFT, {"hub": "a/b", "split": "train", "revision": "main"}, ["40 hex"]),
        (SFT, {"hub": "a/b", "split": "train", "revision": "0" * 40}, ["a.json"]),
    ],
)  # fmt: skip
def test_bad_files_get_one_line(tmp_path, convert, content, words):
    path = tmp_path / "a.json"
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    elif content is not None:
        path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_rows(str(path), convert)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_unknown_kind_of_file(tmp_path):
    (tmp_path / "a.xml").write_text("<a/>")
    with pytest.raises(UserError, match=r"unknown kind of file '\.xml'"):
        read_rows(str(tmp_path / "a.xml"), formats.sft_row)


def test_a_prompts_split_depends_on_its_text_alone():
    first = prompt_id([{"role": "user", "content": "2 + 2? "}])
    assert first == prompt_id(USER)
    assert first != prompt_id([*USER, {"role": "assistant", "content": "4"}, *USER])
    shares = [split_share(prompt_id([{"role": "user", "content": str(i)}]), "judge") for i in range(2000)]
    assert 0.27 < sum(share < 0.3 for share in shares) / 2000 < 0.33
    assert split_share(first, "judge") != split_share(first, "regret")


def test_repeats_are_left_out():
    rows = [{"id": "a", "text": "x"}, {"id": "a", "text": "x"}, {"id": "a", "text": "y"}]
    assert unique_rows(rows, "text") == ([rows[0], rows[2]], 1)


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


def test_an_instruction_brings_its_input_and_history_to_every_format():
    row = {
        "instruction": "Translate.",
        "input": "dog",
        "history": [["Hello?", "Yes."]],
        "output": "chien",
        "chosen": "chien",
        "rejected": "cat",
    }
    prompt = formats.sft_row(row, "a:1")["prompt"]
    assert prompt[-1]["content"] == "Translate.\n\ndog" and len(prompt) == 3
    assert formats.prompt_row(row, "a:1")["prompt"] == formats.preference_row(row, "a:1")["prompt"] == prompt


def test_chosen_and_rejected_may_hold_the_whole_conversation():
    conversations = {name: [*USER, {"role": "assistant", "content": text}] for name, text in (("chosen", "4"), ("rejected", "5"))}
    system = [{"role": "system", "content": "Be short."}]
    for prompt in ("2 + 2?", USER, system + USER):
        found = formats.preference_row({"prompt": prompt, **conversations}, "a:1")
        assert (found["response_a"], found["response_b"]) == ("4", "5")
    with pytest.raises(UserError, match="a:1: field 'chosen': expected the prompt's messages and the assistant's answer"):
        formats.preference_row({"prompt": "3 + 3?", **conversations}, "a:1")
    with pytest.raises(UserError, match="field 'rejected': expected the prompt's messages"):
        formats.preference_row({"prompt": USER, **conversations, "rejected": [*USER, *USER]}, "a:1")
