"""Tools and thoughts as the chat templates of real families write them, and as they are read back from responses."""

import copy
from pathlib import Path

import pytest
import trl

from anchora.model.prompts import encode_answer, encode_conversation, encode_prompt, message_text, opens_thought
from anchora.model.thinking import begins_thinking, is_unfinished, split_thinking, with_thinking, without_thinking
from anchora.run.errors import UserError
from anchora.training.conversations import answered_turns, fold_turns
from anchora.verifiers.pairs import encode_pair

TEMPLATES = Path(trl.__file__).parent / "chat_templates"  # those of published models
USER = {"role": "user", "content": "Weather in Oslo?"}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}}]
EQUIPPED = {**USER, "tools": TOOLS}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
}
RESULT = {"role": "tool", "content": "4 degrees", "name": "weather"}
ANSWER = {"role": "assistant", "content": "It is 4 degrees."}
THOUGHT = {**ANSWER, "reasoning_content": "The tool says 4."}


@pytest.fixture
def family(policy):
    """A tokenizer with the template of a family of models, or a template's text, and an end-of-sequence token."""

    def of(name: str, end: str = "<|im_end|>"):
        tokenizer = copy.deepcopy(policy[1])
        tokenizer.add_special_tokens({"eos_token": end, "additional_special_tokens": ["<|im_start|>"]})
        path = TEMPLATES / f"{name}.jinja"
        tokenizer.chat_template = path.read_text(encoding="utf-8") if path.is_file() else name
        return tokenizer

    return of


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1"])
def test_prompts_with_tools_are_those_of_apply_chat_template(family, name):
    tokenizer = family(name)
    ids = encode_prompt(tokenizer, [EQUIPPED, CALL, RESULT], "")
    text = tokenizer.apply_chat_template([USER, CALL, RESULT], tools=TOOLS, tokenize=False, add_generation_prompt=True)
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(word in text for word in ("Tells it.", "weather", "Oslo", "4 degrees"))


@pytest.mark.parametrize(
    ("name", "end", "written"),
    [
        ("qwen2_5", "<|im_end|>", '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'),
        ("llama3_1", "<|eot_id|>", '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>'),
    ],
)
def test_a_call_is_trained_on_as_the_template_writes_it(family, name, end, written):
    tokenizer = family(name, end)
    assert tokenizer.decode(encode_answer(tokenizer, [EQUIPPED], CALL, "")) == written


def test_every_answer_between_calls_is_trained_on(family):
    tokenizer = family("qwen2_5")
    turns = answered_turns(tokenizer, {"prompt": [EQUIPPED, CALL, RESULT], "completion": ANSWER["content"]}, "", None, every=True)
    (example,) = fold_turns(turns, {tokenizer.eos_token_id})
    trained = tokenizer.decode([label for label in example["labels"] if label != -100])
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert trained == f"{call}<|im_end|>It is 4 degrees.<|im_end|>"


def test_arguments_are_json_where_a_template_takes_only_that(family):
    """DeepSeek-V3's puts them behind a text."""
    tokenizer = family("deepseekv3")
    text = tokenizer.decode(encode_prompt(tokenizer, [USER, {**CALL, "content": "Let me look."}, RESULT], ""))
    assert '{"city": "Oslo"}' in text and "4 degrees" in text


IGNORANT = "{% for m in messages %}{% if m.role != 'tool' %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("messages", "part"), [([EQUIPPED], "the tools"), ([USER, CALL, USER], "the calls of tools"), ([USER, RESULT], "the results of tools")]
)
def test_what_a_template_leaves_out_is_one_line(family, messages, part):
    with pytest.raises(UserError, match=f"^the model's chat template leaves out {part} of the prompt 'Weather in Oslo\\?'"):
        encode_prompt(family(IGNORANT), messages, "")


def test_tools_without_a_chat_template_are_refused_in_a_policy_and_read_by_a_verifier(policy):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="'Weather in Oslo\\?' has tools, which are read by a chat template alone"):
        encode_prompt(tokenizer, [EQUIPPED], "Q: {prompt}\n")
    text = tokenizer.decode(encode_pair(tokenizer, [EQUIPPED], [CALL, RESULT, ANSWER], 512, "Q: {prompt}\n"), skip_special_tokens=True)
    expected = 'Q: Weather in Oslo? {"name": "weather", "arguments": {"city": "Oslo"}} 4 degrees It is 4 degrees.'
    assert "".join(text.split()) == "".join(expected.split())
    assert message_text(CALL) == '{"name": "weather", "arguments": {"city": "Oslo"}}'


def test_a_verifier_reads_a_response_of_several_turns(family):
    tokenizer = family("qwen2_5")
    turns = [ANSWER, {"role": "user", "content": "And tomorrow?"}, {"role": "assistant", "content": "6."}]
    assert encode_pair(tokenizer, [USER], turns, 512, "") == encode_conversation(tokenizer, [USER, *turns])


def test_enable_thinking_reaches_the_template(family):
    tokenizer = family("qwen3")
    texts = [tokenizer.decode(encode_prompt(tokenizer, [USER], "", wanted)) for wanted in (None, True, False)]
    assert texts[0] == texts[1] != texts[2] and texts[2].endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("name", "wanted", "written"),
    [
        ("qwen3", None, "<think>\nThe tool says 4.\n</think>\n\nIt is 4 degrees.<|im_end|>"),
        ("qwen3", False, "It is 4 degrees.<|im_end|>"),
        ("deepseek_r1_distill", None, "The tool says 4.\n</think>\n\nIt is 4 degrees.<|im_end|>"),  # its prompt opens the thought
        ("qwen2_5", None, "<think>\nThe tool says 4.\n</think>\n\nIt is 4 degrees.<|im_end|>"),  # knows no thoughts
    ],
)
def test_a_thought_is_trained_on_where_the_template_has_its_place(family, name, wanted, written):
    tokenizer = family(name)
    ids = encode_answer(tokenizer, [USER], THOUGHT, "", wanted)
    assert tokenizer.decode(ids) == written and ids.count(tokenizer.eos_token_id) == 1
    begun = begins_thinking(tokenizer.decode(encode_prompt(tokenizer, [USER], "", wanted)[-12:]))
    assert split_thinking(written.removesuffix("<|im_end|>"), begun)[1] == ANSWER["content"]


CLOSED = "\n</think>\n\n"
QWEN_CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("name", "answer", "written"),
    [
        ("deepseek_r1_distill", ANSWER, "It is 4 degrees."),
        ("qwen3_5_think", CALL, QWEN_CALL),  # writes an empty thought before answers
        ("nemotron_3_nano", CALL, QWEN_CALL + "\n"),  # writes <think></think>
        (
            "deepseekv3_training", CALL, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
            '{"city": "Oslo"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        ),  # writes no thought
    ],
)  # fmt: skip
def test_an_answer_without_a_thought_closes_the_one_that_its_prompt_opens(family, name, answer, written):
    tokenizer = family(name)
    assert opens_thought(tokenizer, encode_prompt(tokenizer, [USER], ""))
    text = tokenizer.decode(encode_answer(tokenizer, [USER], answer, ""))
    assert text == CLOSED + written + "<|im_end|>"
    assert split_thinking(text.removesuffix("<|im_end|>"), begun=True) == ("", written)


def test_a_text_template_that_opens_a_thought_has_it_closed_too(policy):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = None
    texts = [
        tokenizer.decode(encode_answer(tokenizer, [USER], answer, "Q: {prompt}\n<think>\n"), skip_special_tokens=True)
        for answer in (ANSWER, THOUGHT)
    ]
    assert [split_thinking(text, begun=True) for text in texts] == [("", ANSWER["content"]), ("The tool says 4.", ANSWER["content"])]


def test_a_call_that_a_thinking_template_leaves_out_is_one_line(family):
    with pytest.raises(UserError, match="^the model's chat template leaves out the calls of tools of the prompt 'Weather in Oslo\\?'"):
        encode_answer(family("deepseek_r1_distill"), [USER], CALL, "")


def test_an_answer_that_closes_the_thought_itself_stays_as_it_is():
    assert without_thinking("2 and 2.</think>4", begun=True) == "2 and 2.</think>4"
    assert without_thinking("4", begun=False) == "4"


@pytest.mark.parametrize(
    ("text", "begun", "unfinished"),
    [("It is", True, True), ("<think>It is", False, True), ("It is", False, False), ("It is</think>", True, False), ("", True, True)],
)
def test_a_thought_without_an_end_is_known(text, begun, unfinished):
    assert is_unfinished(text, begun) == unfinished


def test_thoughts_of_earlier_answers_are_trained_on_where_they_were_thought(family):
    """Qwen3 drops them once the user goes on: the first answer, with its thought, is an example of its own."""
    tokenizer = family("qwen3")
    row = {"prompt": [USER, THOUGHT, USER], "completion": "Still 4.", "reasoning_content": "As before."}
    examples = fold_turns(answered_turns(tokenizer, row, "", None, every=True), {tokenizer.eos_token_id})
    trained = [tokenizer.decode([label for label in example["labels"] if label != -100]) for example in examples]
    assert trained == [
        "<think>\nThe tool says 4.\n</think>\n\nIt is 4 degrees.<|im_end|>", "<think>\nAs before.\n</think>\n\nStill 4.<|im_end|>",
    ]  # fmt: skip
    assert "The tool says 4." not in tokenizer.decode(examples[1]["input_ids"])


@pytest.mark.parametrize(
    ("text", "begun", "expected"),
    [
        ("<think>\n2 and 2.\n</think>\n\n4", False, ("2 and 2.", "4")),
        ("2 and 2.</think>4", True, ("2 and 2.", "4")),
        ("<think>It is 4, or 5, or", False, ("It is 4, or 5, or", "")),
        ("It is 4, or", True, ("It is 4, or", "")),
        ("4 is <think>right</think>", False, (None, "4 is <think>right</think>")),
        ("<think></think>4", False, ("", "4")),
    ],
)
def test_a_thought_and_its_answer(text, begun, expected):
    assert split_thinking(text, begun) == expected


@pytest.mark.parametrize("begun", [True, False])
def test_a_thought_written_is_read_back(begun):
    assert split_thinking(with_thinking("a\n\nb", "c", begun), begun) == ("a\n\nb", "c")
