"""What verifiers read: a chat template's whole conversation, encoders' pairs with their marks, other decoders as a policy would."""

import copy

import pytest
from conftest import ROOT, scoring_params

from anchora.model.loading import load_tokenizer
from anchora.model.pins import from_folder
from anchora.model.prompts import encode_prompt, encode_response
from anchora.verifiers.pairs import encode_pair, max_pair_length, pad_inputs

PROMPT = [{"role": "user", "content": "Mia has 3 eggs. How many?"}]


class RobertaMarks:
    """A tokenizer that frames pairs as RoBERTa's does: <s> a </s></s> b </s>, with letters as ids."""

    cls_token_id, sep_token_id = 0, 2

    def __call__(self, first, second=None, add_special_tokens=True):
        ids = [ord(letter) for letter in first]
        return {"input_ids": ids if second is None else [0, *ids, 2, 2, *(ord(letter) for letter in second), 2]}


def test_encoders_read_pairs_with_token_types(encoder):
    model, tokenizer = encoder
    ids = encode_pair(tokenizer, PROMPT, "3", 512, "")
    expected = tokenizer(PROMPT[0]["content"], "3")
    inputs = pad_inputs(tokenizer, model, [ids, ids[:5]])
    assert ids == expected["input_ids"]
    assert inputs["token_type_ids"][0].tolist() == expected["token_type_ids"]
    assert inputs["attention_mask"].sum(1).tolist() == [len(ids), 5]


def test_long_pairs_lose_the_start_of_their_prompt(encoder):
    _, tokenizer = encoder
    full = encode_pair(tokenizer, PROMPT, "it is 3", 512, "")
    truncated = encode_pair(tokenizer, PROMPT, "it is 3", len(full) - 2, "")
    assert truncated == [full[0], *full[3:]]
    answer = tokenizer("it is 3", add_special_tokens=False)["input_ids"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    shortest = encode_pair(tokenizer, PROMPT, "it is 3", 5, "")
    assert shortest == [cls, sep, *answer[-2:], sep]  # the answer to a question stands at the end of a response


# As Llama 3, older chat models, Qwen 3, DeepSeek-R1 and Mistral have them.
CHAT_TEMPLATES = {
    "an end behind every turn": (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content | trim + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\\n{% endif %}"
    ),
    "an end that is no EOS": (
        "{% for m in messages %}<|{{ m.role }}|>\\n{{ m.content }}\\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\\n{% endif %}"
    ),
    "thoughts before the last answer": (
        "{%- for m in messages %}{%- if m.role == 'assistant' and loop.last %}"
        "{{- '<|assistant|>\\n<think>\\n\\n</think>\\n\\n' + m.content }}"
        "{%- else %}{{- '<|' + m.role + '|>\\n' + m.content }}{%- endif %}{{- eos_token + '\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"
    ),
    "thoughts cut, and a prompt that opens them": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}"
        "{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
    ),
    "answers stripped, and a space before the end": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}"
        "{{ m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
}
RESPONSES = ["3", " 3 eggs.\n", "<think>\nShe has 3.\n</think>\n\n3", ""]


@pytest.mark.parametrize("kind", CHAT_TEMPLATES)
def test_a_chat_template_gives_the_whole_conversation(policy, kind):
    """Token by token what a reward model's page tells one to do: no prompt for an answer, and an EOS only where the template has it."""
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = CHAT_TEMPLATES[kind]
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello!"}]
    for prompt in (PROMPT, history + PROMPT):
        for response in RESPONSES:
            ids = encode_pair(tokenizer, prompt, response, 512, "{prompt}")
            expected = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": response}])["input_ids"]
            assert ids == expected
            assert encode_pair(tokenizer, prompt, response, 9, "{prompt}") == expected[-9:]
    assert (ids[-1] == tokenizer.eos_token_id) == (kind not in ("an end that is no EOS", "thoughts before the last answer"))


def test_an_encoder_with_a_chat_template_reads_by_it(encoder):
    """ERNIE 4.5, a decoder, has tokens for CLS and SEP too: what a model was trained on is its template."""
    tokenizer = copy.deepcopy(encoder[1])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} [SEP] {% endfor %}"
    assert (
        encode_pair(tokenizer, PROMPT, "3", 512, "")
        == tokenizer("Mia has 3 eggs. How many? [SEP] 3 [SEP] ", add_special_tokens=False)["input_ids"]
    )


def test_decoders_without_a_chat_template_read_what_a_policy_would():
    tokenizer = load_tokenizer(from_folder(ROOT / "models" / "base" / "policy"), scoring_params())
    tokenizer.chat_template = None
    ids = encode_pair(tokenizer, PROMPT, "3", 512, "Q: {prompt} A:")
    assert ids == encode_prompt(tokenizer, PROMPT, "Q: {prompt} A:") + encode_response(tokenizer, "3")
    assert encode_pair(tokenizer, PROMPT, "3", 4, "Q: {prompt} A:") == ids[-4:]


def test_pairs_are_framed_by_their_tokenizers_own_marks():
    prompt = [{"role": "user", "content": "ab"}]
    assert encode_pair(RobertaMarks(), prompt, "c", 512, "") == RobertaMarks()("ab", "c")["input_ids"]
    assert encode_pair(RobertaMarks(), prompt, "c", 6, "") == [0, ord("b"), 2, 2, ord("c"), 2]


def test_bert_positions_limit_the_pair(encoder):
    assert max_pair_length(encoder[0], 4096) == 512
    assert max_pair_length(encoder[0], 100) == 100


def test_an_encoder_reads_a_response_of_several_turns_and_its_calls(encoder):
    _, tokenizer = encoder
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "count", "arguments": {}}}]}
    turns = [call, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "3 eggs"}]
    expected = tokenizer(PROMPT[0]["content"], '{"name": "count", "arguments": {}}\n\n3\n\n3 eggs')["input_ids"]
    assert encode_pair(tokenizer, PROMPT, turns, 512, "") == expected
