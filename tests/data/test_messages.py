"""Tool calls, thoughts and preferences that part early, as people write them, and the line that a bad one gets."""

import json

import pytest

from anchora.data import formats
from anchora.data.splits import prompt_id, question_id
from anchora.run.errors import UserError

USER = {"role": "user", "content": "Weather in Oslo?"}
FUNCTION = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
RESULT = {"role": "tool", "content": "4 degrees"}
ANSWER = {"role": "assistant", "content": "It is 4 degrees."}


def said(text: str, role: str = "assistant") -> dict:
    return {"role": role, "content": text}


CALLS = {
    "OpenAI's": {"content": None, "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}, "type": "function"}]},
    "transformers'": {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]},
    "of a table": {"content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo", "unit": None}}}]},
    "without a function": {"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]},
    "OpenAI's first": {"content": None, "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_has_one_form(kind):
    messages = [USER, {"role": "assistant", **CALLS[kind]}, {**RESULT, "name": "weather"}, ANSWER]
    found = formats.sft_row({"messages": messages, "tools": TOOLS}, "a:1")
    assert found["prompt"][:2] == [{**USER, "tools": TOOLS}, {"role": "assistant", "content": "", "tool_calls": CALL}]
    assert found["prompt"][2:] == [{**RESULT, "name": "weather"}] and found["completion"] == ANSWER["content"]
    called = formats.sft_row({"messages": messages[:2]}, "a:1")
    assert (called["completion"], called["tool_calls"]) == ("", CALL)


def test_sharegpts_calls_and_observations():
    """LLaMA-Factory's format: roles of their own, and tools as JSON."""
    turns = [
        ("human", "Weather in Oslo?"), ("function_call", '{"name": "weather", "arguments": {"city": "Oslo"}}'),
        ("observation", "4 degrees"), ("gpt", "It is 4 degrees."),
    ]  # fmt: skip
    row = {"conversations": [{"from": role, "value": text} for role, text in turns], "tools": json.dumps([FUNCTION]), "system": "Be brief."}
    found = formats.sft_row(row, "a:1")
    assert found["prompt"] == [
        {"role": "system", "content": "Be brief.", "tools": TOOLS}, USER, {**said(""), "tool_calls": CALL}, RESULT,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({**said(""), "tool_calls": [{"function": {"arguments": '{"city": 1}'}}]}, "a tool call needs a name"),
        ({**said(""), "tool_calls": [{"function": {"name": "f", "arguments": "{city: Oslo}"}}]}, "a tool call needs a name, and arguments"),
        ({**said("x", "user"), "tool_calls": CALL}, "a message of role 'user' has 'tool_calls'"),
        ({**said("x", "user"), "reasoning_content": "y"}, "a message of role 'user' has 'reasoning_content'"),
        ({**said("x"), "reasoning_content": ["y"]}, "must be text"),
        ({"from": "function_call", "value": "weather in Oslo"}, "a tool call needs a name"),
        (said("<think>Only this.</think>"), "expected text, found nothing"),
    ],
)
def test_a_bad_message_gets_one_line(message, words):
    with pytest.raises(UserError) as error:
        formats.sft_row({"messages": [USER, message, USER, ANSWER] if message.get("role") == "user" else [USER, message]}, "a.json:7")
    assert str(error.value).startswith("a.json:7: field 'messages': ") and words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "answer",
    [
        {**said("It is 4."), "reasoning_content": "2 and 2."},
        {**said("It is 4."), "thinking": "2 and 2.\n"},
        said("<think>\n2 and 2.\n</think>\n\nIt is 4."),
    ],
)
def test_a_thought_is_kept_apart(answer):
    found = formats.sft_row({"messages": [USER, answer]}, "a:1")
    assert (found["completion"], found["reasoning_content"]) == ("It is 4.", "2 and 2.")
    pair = formats.preference_row({"prompt": [USER], "chosen": [answer], "rejected": "It is 5."}, "a:1")
    assert pair["response_a"] == "It is 4."


def test_a_text_that_names_the_tags_is_no_thought():
    found = formats.sft_row({"prompt": "Which tags?", "completion": "Those are <think> and </think>."}, "a:1")
    assert found["completion"] == "Those are <think> and </think>." and "reasoning_content" not in found


def test_preferences_part_before_the_last_turn():
    """What both begin with is the prompt; the rest is the response, of one or several turns."""
    again = said("And tomorrow?", "user")
    chosen, rejected = [USER, ANSWER, again, said("6")], [USER, said("No."), again, said("7")]
    found = formats.preference_row({"chosen": chosen, "rejected": rejected}, "a:1")
    assert (found["prompt"], found["response_a"], found["response_b"]) == ([USER], chosen[1:], rejected[1:])
    assert formats.preference_row({"prompt": [USER], "chosen": chosen[1:], "rejected": rejected}, "a:1") == found
    shorter = formats.preference_row({"chosen": chosen, "rejected": rejected[:2]}, "a:1")
    assert (shorter["prompt"], shorter["response_b"]) == ([USER], "No.")
    late = formats.preference_row({"prompt": [USER], "chosen": chosen, "rejected": [*chosen[:3], said("9")]}, "a:1")
    assert (late["prompt"], late["response_a"], late["response_b"]) == (chosen[:3], "6", "9")


def test_preferences_that_part_at_the_users_turn_are_refused():
    chosen, rejected = ([USER, ANSWER, said(text, "user"), said("6")] for text in ("And tomorrow?", "And on Sunday?"))
    for row in ({"chosen": chosen, "rejected": rejected}, {"prompt": [USER], "chosen": chosen[1:], "rejected": rejected[1:]}):
        with pytest.raises(UserError, match=r"^a:1: field 'rejected': it parts from chosen at the user's message 'And on Sunday\?'"):
            formats.preference_row(row, "a:1")
    with pytest.raises(UserError, match="a:1: field 'rejected': expected the prompt's messages and the assistant's answer"):
        formats.preference_row({"chosen": chosen, "rejected": chosen[:3]}, "a:1")


def test_a_preference_between_calls():
    row = {"prompt": [USER], "tools": TOOLS, "chosen": [{**said(""), "tool_calls": CALL}], "rejected": "I do not know."}
    found = formats.preference_row(row, "a:1")
    assert found["prompt"] == [{**USER, "tools": TOOLS}]
    assert (found["response_a"], found["response_b"]) == ([{**said(""), "tool_calls": CALL}], "I do not know.")


def test_a_question_is_the_same_one_with_other_tools():
    bare, equipped = [USER], [{**USER, "tools": TOOLS}]
    assert question_id({"prompt": bare}) == question_id({"prompt": equipped}) == prompt_id(bare) != prompt_id(equipped)


def test_a_prompt_that_begins_with_a_greeting_stands_in_the_response_once():
    greeting = said("Hello!")
    row = {"prompt": [greeting, USER], "chosen": [greeting, USER, ANSWER], "rejected": [greeting, USER, said("No.")]}
    found = formats.preference_row(row, "a:1")
    assert (found["prompt"], found["response_a"], found["response_b"]) == ([greeting, USER], ANSWER["content"], "No.")


def test_an_input_beside_implicit_prompts_is_refused():
    with pytest.raises(UserError, match="^a:1: field 'input': it would change what the policy reads"):
        formats.preference_row({"chosen": [USER, ANSWER], "rejected": [USER, said("No.")], "input": "Norway"}, "a:1")
