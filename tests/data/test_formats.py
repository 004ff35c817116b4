"""Rows in every format that people have, and the line that a bad one gets."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchora.data import formats
from anchora.data.reading import read_rows
from anchora.data.splits import prompt_id
from anchora.model.prompts import NOT_LEARNT
from anchora.run.errors import UserError

USER = [{"role": "user", "content": "2 + 2?"}]
PAIR = {"prompt": "2 + 2?", "response_a": "4", "response_b": "5"}
SFT, PREFERENCE, PROMPT, GSM8K, MT_BENCH = (
    formats.sft_row, formats.preference_row, formats.prompt_row, formats.gsm8k_row, formats.mt_bench_row,
)  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """Rows as they come back from a JSON file through one of the formats."""

    def read_back(rows: list[dict], convert) -> list[dict]:
        (tmp_path / "a.json").write_text(json.dumps(rows))
        return read_rows(str(tmp_path / "a.json"), convert)

    return read_back


def test_instruction_with_input(read):
    (found,) = read([{"instruction": "Add.", "input": "2 and 2", "output": "4"}], SFT)
    assert found["prompt"][0]["content"] == "Add.\n\n2 and 2"


def test_an_instruction_follows_on_its_history(read):
    row = {"system": "Be short.", "history": [["2 + 2?", "4"]], "instruction": "And twice that?", "output": "8"}
    (found,) = read([row], SFT)
    assert [(message["role"], message["content"]) for message in found["prompt"]] == [
        ("system", "Be short."), ("user", "2 + 2?"), ("assistant", "4"), ("user", "And twice that?"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="field 'history': expected pairs"):
        read([row | {"history": ["2 + 2?"]}], SFT)


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


def test_sharegpt_conversations_with_chosen_and_rejected():
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


def test_one_question_in_several_columns_is_read_alike_in_every_format():
    """The instruction goes before a prompt that stands beside it; tables fill columns of other rows with empty lists."""
    row = {"instruction": "2 + 2?", "input": "", "prompt": "### Instruction: 2 + 2?", "messages": [], "conversations": None}
    for convert, answer in (
        (formats.sft_row, {"output": "4"}), (formats.preference_row, {"chosen": "4", "rejected": "5"}), (formats.prompt_row, {}),
    ):  # fmt: skip
        assert convert(row | answer, "a:1")["prompt"] == USER
    orca = {"system": "", "question": "2 + 2?", "chosen": "4", "rejected": "5"}
    assert formats.preference_row(orca, "a:1")["prompt"] == USER


def test_an_earlier_answer_that_is_not_to_be_learnt_is_read_and_marked():
    talk = [*USER, {"role": "assistant", "content": "5", "weight": 0}, *USER, {"role": "assistant", "content": "4", "weight": 1}]
    row = formats.sft_row({"messages": talk}, "a:1")
    assert row["completion"] == "4" and row["prompt"][1] == {"role": "assistant", "content": "5", NOT_LEARNT: True}
    plain = formats.sft_row({"messages": [{key: message[key] for key in ("role", "content")} for message in talk]}, "a:1")
    assert prompt_id(row["prompt"]) == prompt_id(plain["prompt"])


def test_a_prompt_that_stands_in_chosen_and_rejected_alone():
    """TRL's implicit prompts: both begin with the same messages."""
    ours, theirs = ([*USER, {"role": "assistant", "content": text}] for text in ("4", "5"))
    row = formats.preference_row({"chosen": ours, "rejected": theirs}, "a:1")
    assert (row["prompt"], row["response_a"], row["response_b"], row["label"]) == (USER, "4", "5", 1.0)
    other = [{"role": "user", "content": "3 + 3?"}, theirs[-1]]
    with pytest.raises(UserError, match="a:1: field 'rejected': expected the prompt's messages"):
        formats.preference_row({"chosen": ours, "rejected": other}, "a:1")


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


@pytest.mark.parametrize(
    ("convert", "row", "words"),
    [
        (SFT, {"prompt": "a"}, ["'completion'", "missing"]),
        (SFT, {"question": "a"}, ["the row has question"]),
        (SFT, {"prompt": "a", "completion": 5}, ["'completion'", "expected text, found int"]),
        (SFT, {"messages": USER}, ["'messages'", "assistant's message last"]),
        (SFT, {"prompt": "a", "completion": [{"role": "user", "content": "b"}]}, ["'completion'", "assistant's message", "'user'"]),
        (SFT, {"prompt": "a", "completion": "b", "label": False}, ["'label'", "not to be learnt"]),
        (SFT, {"messages": [*USER, {"role": "assistant", "content": "4", "weight": 0}]}, ["'messages'", "not to be learnt"]),
        (SFT, {"messages": [*USER, {"role": "assistant", "content": "4", "train": False}]}, ["'messages'", "not to be learnt"]),
        (SFT, {"messages": [{"role": "robot", "content": "x"}] * 2}, ["role"]),
        (PREFERENCE, {**PAIR, "label": 1.5}, ["'label'", "from 0", "1.5"]),
        (PREFERENCE, {**PAIR, "label": -1}, ["'label'"]),
        (PREFERENCE, {**PAIR, "label": "A"}, ["'label'", "'A'"]),
        (PREFERENCE, PAIR, ["'label'", "None"]),
        (PREFERENCE, {"prompt": "a", "chosen": "b"}, ["'rejected'", "missing"]),
        (PREFERENCE, {"chosen": "a", "rejected": "b"}, ["'prompt'", "the row has chosen, rejected", "cut in two"]),
        (PROMPT, {"text": "a"}, ["'prompt'"]),
        (GSM8K, {"prompt": "a", "answer": "#### 4"}, ["'question' is missing; the row has answer, prompt"]),
        (GSM8K, {"question": "a", "answer": 4}, ["'answer'", "ends in ####", "the number 4"]),
        (GSM8K, {"question": "a", "answer": "four"}, ["'answer'", "####"]),
        (MT_BENCH, {"question_id": 1, "category": "math", "turns": []}, ["'turns'"]),
        (MT_BENCH, {"question_id": "x", "category": "math", "turns": ["a"]}, ["'question_id'"]),
    ],
)
def test_a_bad_row_gets_one_line(read, tmp_path, convert, row, words):
    with pytest.raises(UserError) as error:
        read([row], convert)
    assert "\n" not in str(error.value)
    for word in [f"{tmp_path / 'a.json'}:1:", *words]:
        assert word in str(error.value)


def pair(folder, label: str) -> str:
    """The path of a file with one pair, whose label is written as JSON."""
    (folder / "a.json").write_text(json.dumps([PAIR])[:-2] + f', "label": {label}}}]')
    return str(folder / "a.json")


@pytest.mark.parametrize("label", ["NaN", "1e400", "null", "true", '"A"', "[1]", "1.0001", "-0.1"])
def test_labels_that_are_none(tmp_path, label):
    with pytest.raises(UserError, match=":1: field 'label'"):
        read_rows(pair(tmp_path, label), PREFERENCE)


@pytest.mark.parametrize(("label", "value"), [("1", 1.0), ("0", 0.0), ('"0.5"', 0.5), ("1e-3", 0.001)])
def test_labels_as_people_write_them(tmp_path, label, value):
    assert read_rows(pair(tmp_path, label), PREFERENCE)[0]["label"] == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    "prompt completion messages instruction input output chosen rejected response_a response_b label question answer".split()
)
CONVERTERS = [SFT, PREFERENCE, PROMPT, GSM8K, formats.alpaca_eval_row, MT_BENCH]


@given(row=st.dictionaries(FIELDS, VALUES, max_size=5), convert=st.sampled_from(CONVERTERS))
@settings(max_examples=600, deadline=None)
def test_any_row_is_read_or_refused_in_one_line(row, convert):
    try:
        found = convert(row, "data.json:1")
    except UserError as error:
        assert "data.json:1" in str(error)
    else:
        assert found["prompt"][-1]["role"] == "user" and found["source"] == "data.json:1"
