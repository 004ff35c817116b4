"""Every answer of a conversation, as chat templates of real families write it, against TRL's masks for them and answer by answer."""

import copy
import importlib
from pathlib import Path

import pytest
import torch
import trl
from conftest import params_as
from tiny_models import mistral_tokenizer_folder
from transformers import AutoTokenizer

import sft
from anchora.model.prompts import NOT_LEARNT
from anchora.run.errors import UserError
from anchora.training.conversations import answered_turns, fold_turns
from parameters.sft import SftParams

TEMPLATES = Path(trl.__file__).parent / "chat_templates"  # those of published models
TALK = [
    {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "twice?"}, {"role": "assistant", "content": "8 eggs"}, {"role": "user", "content": "more?"},
]  # fmt: skip
ROW = {"prompt": TALK, "completion": "16"}
# The end-of-sequence token of a family, what else its generation settings end responses by, and how it closes an answer.
FAMILIES = {
    "qwen2_5": ("<|im_end|>", [], "<|im_end|>"),
    "qwen3": ("<|im_end|>", [], "<|im_end|>"),
    "llama3": ("<|eot_id|>", [], "<|eot_id|>"),
    "gemma": ("<eos>", ["<end_of_turn>"], "<end_of_turn>"),
    "gemma3": ("<end_of_turn>", [], "<end_of_turn>"),
    "cohere": ("<|END_OF_TURN_TOKEN|>", [], "<|END_OF_TURN_TOKEN|>"),
    "deepseekv3": ("<|end_of_sentence|>", [], None),  # its prompts open a thought, and no answer that was given has one
    "glm4moe": ("<|user|>", [], None),  # it writes that no thought was kept into every answer that was given
    "phi3": ("<|endoftext|>", [], None),  # it closes answers by <|end|>, which here ends no response
}
MARKS = ["<bos>", "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|assistant|>", "<|end|>", "<|user|>"]


def of_family(tokenizer, family: str):
    """A tokenizer with a family's template and marks, and the tokens that end its responses."""
    tokenizer, (end, more, _) = copy.deepcopy(tokenizer), FAMILIES[family]
    tokenizer.add_special_tokens({"eos_token": end, "bos_token": "<bos>", "additional_special_tokens": [*MARKS, *more]})
    tokenizer.chat_template = (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    return tokenizer, frozenset(tokenizer.convert_tokens_to_ids([end, *more]))


def trained_text(tokenizer, example: dict) -> str:
    return tokenizer.decode([label for label in example["labels"] if label != -100])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_trained_on_with_its_end(policy, family):
    tokenizer, ends = of_family(policy[1], family)
    end, _, closes = FAMILIES[family]
    examples = fold_turns(answered_turns(tokenizer, ROW, "", None, every=True), ends)
    closing = "\n</think>\n\n" if family == "deepseekv3" else ""
    if closes is None:
        expected = [f"{closing}{answer}{end}" for answer in ("It is 4.", "8 eggs", "16")]
        assert [trained_text(tokenizer, example) for example in examples] == expected
    else:
        assert [trained_text(tokenizer, example) for example in examples] == [f"It is 4.{closes}8 eggs{closes}16{end}"]
    (last,) = fold_turns(answered_turns(tokenizer, ROW, "", None, every=False), ends)
    assert last["input_ids"] == examples[-1]["input_ids"] and trained_text(tokenizer, last) == f"{closing}16{end}"


@pytest.mark.parametrize("family", ["qwen2_5", "llama3", "gemma3", "cohere"])
def test_the_labels_are_the_masks_of_trl(policy, family):
    """Those of its training template; it trains on the line ends around some answers, too, which no policy is asked to write."""
    tokenizer, ends = of_family(policy[1], family)
    (example,) = fold_turns(answered_turns(tokenizer, ROW, "", None, every=True), ends)
    theirs = tokenizer.apply_chat_template(
        [*TALK, {"role": "assistant", "content": "16"}], return_dict=True, return_assistant_tokens_mask=True,
        chat_template=(TEMPLATES / f"{family}_training.jinja").read_text(encoding="utf-8"),
    )  # fmt: skip
    length = len(example["input_ids"])
    assert theirs["input_ids"][:length] == example["input_ids"]
    for token, mask, label in zip(theirs["input_ids"][:length], theirs["assistant_masks"], example["labels"], strict=False):
        assert label == (token if mask and tokenizer.decode(token) != "\n" else -100)
    assert not tokenizer.decode(theirs["input_ids"][length:]).strip()


@pytest.mark.parametrize(("space", "examples"), [(" ", 3), ("", 1)])
def test_mistrals_own_tokenizer(tmp_path, space, examples):
    """A space before an answer is part of its first token, where a response begins without: then each answer stands alone."""
    common = pytest.importorskip("mistral_common.tokens.tokenizers.mistral")
    messages, request = (importlib.import_module(f"mistral_common.protocol.instruct.{name}") for name in ("messages", "request"))
    tokenizer = AutoTokenizer.from_pretrained(mistral_tokenizer_folder(tmp_path))
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% else %}" + space + "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    turns = answered_turns(tokenizer, ROW | {"completion": "It is 16."}, "", None, every=True)
    folded = fold_turns(turns, {tokenizer.eos_token_id})
    assert len(folded) == examples
    assert "".join(trained_text(tokenizer, example) for example in folded) == "It is 4.</s>8 eggs</s>It is 16.</s>"
    if space:
        roles = {"user": messages.UserMessage, "assistant": messages.AssistantMessage}
        said = [roles[message["role"]](content=message["content"]) for message in TALK]
        theirs = common.MistralTokenizer.v3().instruct_tokenizer.encode_instruct(request.InstructRequest(messages=said))
        assert turns[-1].prompt == theirs.tokens


def test_answers_in_one_pass_have_the_losses_that_they_have_alone(policy):
    model, tokenizer = policy
    turns = answered_turns(tokenizer, ROW, "", None, every=True)
    (together,) = fold_turns(turns, {tokenizer.eos_token_id})

    def losses(ids, labels) -> torch.Tensor:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100, reduction="none")

    alone = torch.cat([losses(turn.prompt + turn.answer, [-100] * len(turn.prompt) + turn.answer) for turn in turns])
    folded = losses(together["input_ids"], together["labels"])
    torch.testing.assert_close(folded[folded != 0], alone[alone != 0], rtol=0, atol=1e-4)
    assert (folded != 0).sum() == sum(len(turn.answer) for turn in turns) > 12


def test_a_system_message_that_a_template_folds_into_the_users(policy):
    """Gemma 3 has no turn for it."""
    tokenizer, ends = of_family(policy[1], "gemma3")
    row = ROW | {"prompt": [{"role": "system", "content": "Be brief."}, *TALK]}
    (example,) = fold_turns(answered_turns(tokenizer, row, "", None, every=True), ends)
    assert trained_text(tokenizer, example) == "It is 4.<end_of_turn>8 eggs<end_of_turn>16<end_of_turn>"
    assert tokenizer.decode(example["input_ids"]).startswith("<bos><start_of_turn>user\nBe brief.\n\n2 + 2?<end_of_turn>")


def test_what_a_template_refuses_names_the_row(policy):
    """Gemma's first one takes no system message."""
    tokenizer, _ = of_family(policy[1], "gemma")
    row = ROW | {"prompt": [{"role": "system", "content": "Be brief."}, *TALK], "source": "data.json:3"}
    with pytest.raises(UserError, match="^data.json:3: the model's chat template refuses the turns system, user"):
        sft.encode_rows(tokenizer, [row], params_as(SftParams, assistant_loss="all"))


def test_a_greeting_answers_nothing(policy):
    greeting = [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Hello!"}]
    turns = answered_turns(policy[1], {"prompt": [*greeting, TALK[0]], "completion": "4"}, "", None, every=True)
    assert [policy[1].decode(turn.answer, skip_special_tokens=True) for turn in turns] == ["4"]


def test_an_answer_that_is_not_to_be_learnt_is_read_alone(policy):
    """No turn is trained on it, and what follows has the same tokens before it."""
    tokenizer = policy[1]
    talk = [TALK[0], {"role": "assistant", "content": "5"}, TALK[0]]
    marked = [TALK[0], {**talk[1], NOT_LEARNT: True}, TALK[0]]
    every, learnt = (
        answered_turns(tokenizer, {"prompt": prompt, "completion": "4"}, "### {prompt}\n", None, every=True) for prompt in (talk, marked)
    )
    assert len(every) == 2 and learnt == every[1:]


@pytest.mark.parametrize("has_chat_template", [True, False])
def test_answers_too_far_back_are_dropped_and_the_earlier_ones_stay(policy, has_chat_template):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = tokenizer.chat_template if has_chat_template else None
    row = ROW | {"source": "data.json:3"}
    params = params_as(SftParams, assistant_loss="all", overlong_prompts="drop")
    turns = answered_turns(tokenizer, ROW, params.prompt_template, None, every=True)
    room = len(turns[1].prompt + turns[1].answer)
    ((example,), dropped) = sft.encode_rows(tokenizer, [row], params.model_copy(update={"max_length": room}))
    assert (trained_text(tokenizer, example).count(tokenizer.eos_token), dropped) == (2, 1)
    with pytest.raises(UserError, match=r"^data.json:3: field 'prompt' and its completion: \d+ tokens, more than"):
        sft.encode_rows(tokenizer, [row], params.model_copy(update={"max_length": room, "overlong_prompts": "error"}))


def test_the_length_that_is_told_is_that_of_the_first_answer_that_does_not_fit(policy):
    """An earlier answer's thoughts, which the template drops later, can make it the longest."""
    tokenizer = of_family(policy[1], "qwen3")[0]
    thoughtful = {"role": "assistant", "content": "4", "reasoning_content": "one and one and " * 40}
    row = {"prompt": [TALK[0], thoughtful, TALK[0]], "completion": "4", "source": "data.json:3"}
    first, last = (len(turn.prompt + turn.answer) for turn in answered_turns(tokenizer, row, "", None, every=True))
    assert last < first
    with pytest.raises(UserError, match=f"^data.json:3: field 'prompt' and its completion: {first} tokens, more than max_length = {last};"):
        sft.encode_rows(tokenizer, [row], params_as(SftParams, assistant_loss="all", max_length=last, overlong_prompts="error"))
