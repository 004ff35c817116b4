"""Prompts and responses as token ids, by chat templates and without."""

import copy

import pytest
from tiny_models import mistral_tokenizer_folder
from transformers import AutoTokenizer

from anchora.model.prompts import chat_template_of, encode_conversation, encode_prompt, encode_response, renders_alike, token_texts
from anchora.run.errors import UserError


def test_the_trained_and_the_sampled_response_start_at_the_same_token(policy):
    _, tokenizer = policy
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "2?"}], "") + encode_response(tokenizer, "4 eggs")
    chat = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "4 eggs"}]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(chat, tokenize=False)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids.count(tokenizer.eos_token_id) == 1


def test_a_prompt_without_tokens_is_refused():
    """The first token of a response is predicted at the prompt's last one: there would be none."""

    class Bare:
        eos_token, eos_token_id = "</s>", 2

        def __call__(self, text):
            return {"input_ids": list(text.encode())}

    assert encode_prompt(Bare(), [{"role": "user", "content": "a"}], "{prompt}") == [97]
    with pytest.raises(UserError, match="has no token"):
        encode_prompt(Bare(), [{"role": "user", "content": ""}], "{prompt}")


def test_the_texts_of_tokens_are_the_whole(policy):
    tokenizer = policy[1]
    for text in ("7 + 8 = 15. #### 15", " caf\u00e9 \U0001f642 \u05e9\u05dc\u05d5\u05dd", "a  b\n c"):
        ids = encode_response(tokenizer, text)
        pieces = token_texts(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids[:-1]) and len(pieces) == len(ids) and pieces[-1] == ""


@pytest.mark.parametrize(
    ("date_format", "expected"),
    [
        ("%d %b %Y", "26 Jul 2024"),
        ("%Y-%m-%d", "2024-07-26"),
        ("%F", "2024-07-26"),
        ("%B %-d, %Y", "July 26, 2024"),
        ("%A, %d.%m.%y, %H:%M", "Friday, 26.07.24, 00:00"),
    ],
)
def test_a_chat_template_that_tells_the_date_tells_the_same_one_every_day(policy, date_format, expected):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = f"{{% set today = strftime_now('{date_format}') %}}Today is {{{{ today }}}}."
    assert encode_prompt(tokenizer, [{"role": "user", "content": "?"}], "") == tokenizer(f"Today is {expected}.")["input_ids"]


FAILING = {
    "text and a number": ("{{ 'turn ' + messages | length }}", "TypeError: can only concatenate str"),
    "a key that is not there": ("{{ messages[0].name.first }}", "UndefinedError: "),
    "no jinja": ("{% for m in messages %}", "TemplateSyntaxError: "),
    "a filter that is not there": ("{{ messages | shuffle }}", "TemplateAssertionError: "),
    "division by 0": ("{{ 1 / 0 }}", "ZeroDivisionError: "),
    "several and no default": (
        {"rag": "{{ 1 }}", "tool_use": "{{ 2 }}"},
        "ValueError: This model has multiple chat templates with no default",
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_chat_template_that_fails_is_one_line(policy, kind):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template, words = FAILING[kind]
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
    for encode in (lambda: encode_prompt(tokenizer, messages[:1], ""), lambda: encode_conversation(tokenizer, messages)):
        with pytest.raises(UserError) as error:
            encode()
        assert "the model's chat template refuses the turns user" in str(error.value) and f"'Hello.': {words}" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_chat_template_that_refuses_a_prompt_is_one_line(policy):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match="refuses the turns system, user of the prompt 'Hello.': TemplateError: System role not supported"):
        encode_prompt(tokenizer, [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello."}], "")


@pytest.mark.parametrize("tail", ["{eos}", "{eos}\n", " {eos}", "{eos}\n{eos} "])
def test_an_end_token_written_in_the_text_is_no_second_one(policy, tail):
    tokenizer = policy[1]
    ids = encode_response(tokenizer, "4 eggs" + tail.format(eos=tokenizer.eos_token))
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "4 eggs"
    assert encode_response(tokenizer, f"a{tokenizer.eos_token}b").count(tokenizer.eos_token_id) == 2


@pytest.mark.parametrize("has_chat_template", [True, False])
def test_an_end_token_written_in_an_earlier_answer_is_no_second_one(policy, has_chat_template):
    """The template ends an assistant's turn itself, in a prompt's history and in a conversation that a reward model reads."""
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = tokenizer.chat_template if has_chat_template else None
    talk, marked = (
        [{"role": "user", "content": "2?"}, {"role": "assistant", "content": f"4 eggs{end}"}, {"role": "user", "content": "3?"}]
        for end in ("", f"{tokenizer.eos_token}\n")
    )
    assert encode_prompt(tokenizer, marked, "Q: {prompt}") == encode_prompt(tokenizer, talk, "Q: {prompt}")
    if not has_chat_template:
        assert renders_alike(tokenizer, chat_template_of(tokenizer, "Q: {prompt}"), "Q: {prompt}", [talk, marked])
    else:
        assert encode_conversation(tokenizer, marked[:2]) == encode_conversation(tokenizer, talk[:2])


TEMPLATES = [
    "### Instruction:\n{prompt}\n\n### Response:\n",
    'Q: "{prompt}"\\n {{x}} {% y %}\nA:',
    "{prompt}",
    "\U0001f642 {prompt} \u05e9 {prompt}",
]
TALKS = [
    [{"role": "user", "content": "2 + 2?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " {{ 2 }}\n"}, {"role": "assistant", "content": "4"},
     {"role": "user", "content": "caf\u00e9"}],
]  # fmt: skip


@pytest.fixture(params=["byte-level BPE", "Mistral's"])
def without_chat_template(request, policy, tmp_path):
    """A tokenizer that has no chat template, with and without a BOS token before every text."""
    tokenizer = copy.deepcopy(policy[1])
    if request.param == "Mistral's":
        tokenizer = AutoTokenizer.from_pretrained(mistral_tokenizer_folder(tmp_path))
    tokenizer.chat_template = None
    return tokenizer


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_template_becomes_a_chat_template_of_the_same_tokens(without_chat_template, template):
    tokenizer = without_chat_template
    chat_template = chat_template_of(tokenizer, template)
    assert renders_alike(tokenizer, chat_template, template, TALKS)
    assert not renders_alike(tokenizer, chat_template + "x", template, TALKS)
    tokenizer.chat_template, before = chat_template, [encode_prompt(tokenizer, talk, template) for talk in TALKS]
    assert [encode_prompt(tokenizer, talk, "unused {prompt}") for talk in TALKS] == before
