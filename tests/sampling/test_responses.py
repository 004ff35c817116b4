"""Sampling: entropies, ends, caches that are shared, and shards that do not depend on each other."""

import pytest
import torch
from conftest import params_as
from tiny_models import END, PAIRS, SIZES
from transformers import MiniMaxConfig, MiniMaxForCausalLM, MistralConfig, MistralForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM
from transformers.cache_utils import DynamicLayer

from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.benchmarks import answer_turns
from anchora.model.batches import collate
from anchora.model.logps import hidden_states, map_logits
from anchora.model.prompts import encode_prompt
from anchora.sampling import decode as decoding
from anchora.sampling import responses as sampling
from anchora.sampling.cache import PreallocatedLayer
from anchora.sampling.responses import generate


def test_recorded_entropy_is_that_of_the_raw_distribution(policy):
    """Sampling at another temperature and top-p leaves the entropy of the raw next-token distributions."""
    model, tokenizer = policy
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "Work out 3 + 4."}], "")
    rows = generate(model, tokenizer, [prompt] * 3, samples=2, temperature=1.7, top_p=0.9, max_new_tokens=12, responses_at_once=4, seed=0)
    for response in [response for responses in rows for response in responses]:
        batch = collate([(prompt, response.ids)], tokenizer.pad_token_id, "cpu")
        with torch.no_grad():
            entropies = map_logits(
                model.get_output_embeddings(),
                hidden_states(model, batch),
                lambda logits: torch.distributions.Categorical(logits=logits).entropy(),
            )
        assert response.entropy == pytest.approx(entropies.mean().item(), abs=1e-4)


def test_sampling_stops_at_eos_and_marks_what_was_cut(policy):
    model, tokenizer = policy
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "Work out 3 + 4."}], "")
    (whole,), (cut,) = (generate(model, tokenizer, [prompt], max_new_tokens=length, responses_at_once=8, seed=0)[0] for length in (40, 3))
    assert whole.finished and whole.ids[-1] == tokenizer.eos_token_id
    assert whole.ids.count(tokenizer.eos_token_id) == 1
    assert whole.text == "3 + 4 = 7. #### 7"
    assert not cut.finished and len(cut.ids) == 3


def three_samples_each(model) -> list[sampling.Response]:
    prompts = [prompt for prompt, _ in PAIRS]
    return sum(generate(model, END, prompts, samples=3, temperature=1.0, max_new_tokens=8, responses_at_once=9, seed=0), [])


def agree(first: list[sampling.Response], second: list[sampling.Response]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.ids == other.ids
        assert one.entropies == pytest.approx(other.entropies, abs=1e-3)


def test_samples_of_a_prompt_share_its_cache_and_are_those_of_whole_rows(model, monkeypatch):
    """With weights large enough that a position id off by one moves entropies by a tenth and more."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(8)
    rows = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, args, named: rows.append(tuple((args or [named["input_ids"]])[0].shape)), with_kwargs=True
    )
    shared = three_samples_each(model)
    hook.remove()
    assert rows[:2] == [(3, 4), (3, 1)] and (9, 1) in rows  # prompts once, their last tokens once; then a token of every sample
    monkeypatch.setattr(decoding, "prompt_cache", lambda *_, **__: None)
    agree(shared, three_samples_each(model))


@pytest.mark.parametrize("window", [2, 4])
def test_a_sliding_window_shares_its_cache_too(window, monkeypatch):
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window, initializer_range=0.2)).eval()
    shared = three_samples_each(model)
    monkeypatch.setattr(decoding, "prompt_cache", lambda *_, **__: None)
    agree(shared, three_samples_each(model))


LINEAR = {
    "qwen3_next": lambda: Qwen3NextForCausalLM(
        Qwen3NextConfig(**SIZES, head_dim=8, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8,
                        linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
                        shared_expert_intermediate_size=16)
    ),
    "minimax": lambda: MiniMaxForCausalLM(MiniMaxConfig(**SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LINEAR)
def test_a_model_with_linear_attention_is_sampled_without_a_shared_cache(kind, monkeypatch):
    """The one has layers of another kind in its cache, the other layers of the usual kind that stay empty."""
    torch.manual_seed(0)
    model = LINEAR[kind]().eval()
    sampled = three_samples_each(model)
    monkeypatch.setattr(decoding, "prompt_cache", lambda *_, **__: None)
    agree(sampled, three_samples_each(model))


@pytest.mark.parametrize("stop_strings", [[], ["####"]])
def test_responses_that_have_ended_leave_the_batch_and_the_others_stay_as_they_are(policy, stop_strings):
    model, tokenizer = policy
    texts = ["Work out 3 + 4.", "Mia has 31 eggs and 9 pens. Leo brings 12 eggs. How many eggs are there?", "Hello.", "Work out 12 - 5."]
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}], "") for text in texts]

    def answers(**options) -> list[sampling.Response]:
        settings: dict = {"samples": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 40, "stop_strings": stop_strings}
        return sampling.generate_shard(model, tokenizer, prompts, **settings, **options)

    together, sizes = answers(keep_ended=True), []
    hook = model.get_decoder().register_forward_pre_hook(lambda _, args, named: sizes.append(len(named["input_ids"])), with_kwargs=True)
    parted = answers()
    hook.remove()
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 4 and sizes[-1] < 4
    for one, other in zip(together, parted, strict=True):
        assert (one.ids, one.text, one.finished) == (other.ids, other.text, other.finished)
        assert one.entropies == pytest.approx(other.entropies, abs=1e-3)


@pytest.mark.parametrize(
    ("says", "stop", "kept", "text"),
    [
        ("7<|user|> 8", "<|user|>", "7<|user|>", "7"),  # a special token, which no text shows
        ("\n7\n8", "\n\n", "\n7\n8", "\n7\n8"),  # the prompt ends in a line break: one more completes no stop string
        ("7\n\n8", "\n\n", "7\n\n", "7"),
    ],
)
def test_a_stop_string_ends_the_response_it_stands_in(policy, says, stop, kept, text, monkeypatch):
    model, tokenizer = policy
    script = [*tokenizer.encode(says, add_special_tokens=False), tokenizer.eos_token_id]
    steps = iter(script + [script[-1]] * 40)

    def scripted(head, inputs, logits):
        forced = torch.full_like(logits, -30.0)
        forced[..., next(steps)] = 0.0
        return forced

    hook = model.get_output_embeddings().register_forward_hook(scripted)
    prompt = tokenizer.encode("Count.\n", add_special_tokens=False)
    ((response,),) = generate(model, tokenizer, [prompt], max_new_tokens=24, responses_at_once=1, seed=0, stop_strings=[stop])
    hook.remove()
    stopped = stop in says
    assert response.ids == tokenizer.encode(kept, add_special_tokens=False) + ([] if stopped else [tokenizer.eos_token_id])
    assert (response.text, response.finished) == (text, True)
    assert len(response.entropies) == len(response.ids) and response.entropy < 0.01


def test_a_preallocated_layer_equals_a_growing_one_and_writes_in_place():
    """Space for 5 tokens behind 5 of two samples of each row; then rows leave, and the layer grows once."""
    torch.manual_seed(0)
    growing = DynamicLayer()
    growing.update(torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4))
    preallocated = PreallocatedLayer(growing.keys, growing.values, 5, samples=2)
    growing.batch_repeat_interleave(2)
    address, rows = preallocated.keys.data_ptr(), 6

    def both_take(tokens: int) -> None:
        new = torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)
        for ours, theirs in zip(preallocated.update(*new), growing.update(*new), strict=True):
            assert torch.equal(ours, theirs)

    both_take(1)
    for kept in ([0, 1, 5, 3], [3, 1]):
        preallocated.move_rows(kept)
        growing.batch_select_indices(torch.tensor(kept))
        rows = len(kept)
        both_take(2)
    assert preallocated.get_seq_length() == 10 and preallocated.keys.data_ptr() == address
    preallocated.make_room(left=3)
    both_take(3)
    assert preallocated.get_seq_length() == 13 and preallocated.keys.data_ptr() != address


def test_as_many_responses_are_sampled_at_once_whether_prompts_get_one_or_several(policy, monkeypatch):
    """Eight at once: seven prompts with one response each are one shard; with four each, two prompts a shard."""
    model, tokenizer = policy
    prompts, shards = [[5, 6, 7]] * 7, []

    def shard(model, tokenizer, prompts, samples, **_):
        shards.append(len(prompts))
        return [sampling.Response("", [], False, 0.0, [])] * len(prompts) * samples

    monkeypatch.setattr(sampling, "generate_shard", shard)
    for samples in (1, 4, 16):
        generate(model, tokenizer, prompts, samples=samples, temperature=1.0, max_new_tokens=1, responses_at_once=8, seed=0)
    assert shards == [7] + [2, 2, 2, 1] + [1] * 7


def test_a_shards_samples_do_not_depend_on_other_shards(policy):
    model, tokenizer = policy
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": f"Work out {i} + 4."}], "") for i in range(1, 7)]
    settings = {"samples": 2, "temperature": 1.0, "max_new_tokens": 16, "responses_at_once": 6, "seed": 5}
    assert generate(model, tokenizer, prompts, **settings)[:3] == generate(model, tokenizer, prompts[:3], **settings)


def test_a_conversation_that_grew_too_long_loses_its_beginning(policy, capsys):
    model, tokenizer = policy
    rows = [{"turns": ["Mia has 31 eggs and 9 pens. Leo brings 12 eggs. How many eggs are there?", "Add 4 to that."]}]
    params = params_as(AnswerParams, max_length=56, max_new_tokens=16)
    ((first, second),) = answer_turns(model, tokenizer, rows, params, "short")
    assert first and second
    assert capsys.readouterr().out == "short, turn 2: 1 of 1 conversations lose their beginning, longer than 40 tokens\n"


@pytest.mark.parametrize(("prompt", "written"), [("Why? <think>\n", "2 and 2.</think>\n\n4"), ("Why?", "<think>2 and 2.</think>4")])
def test_what_was_thought_counts_in_the_length_and_not_in_the_text(policy, monkeypatch, prompt, written):
    """It is read, verified and judged by the answer alone."""
    model, tokenizer = policy
    ids = [*tokenizer(written, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def decode(model, prompts, mask, samples, draw, *_):
        draw.tokens, draw.entropies = [list(ids)], [[0.5] * len(ids)]

    monkeypatch.setattr(sampling, "decode", decode)
    (drawn,) = sampling.generate_shard(
        model, tokenizer, [tokenizer(prompt)["input_ids"]], samples=1, temperature=0.0, top_p=1.0, max_new_tokens=64, stop_strings=[]
    )
    assert (drawn.text, drawn.ids, drawn.finished) == ("4", ids, True)
