"""Log-probs, entropies and MC dropout against the models themselves, on four architectures."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from conftest import params_as
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from anchora import dropout, generation, logps, measure, parallel
from anchora.dropout import decoder_layers, dropout_information, injected_dropout
from anchora.files import UserError
from anchora.generation import generate
from anchora.logps import (
    Batch,
    can_share_prompts,
    check_head,
    collate,
    hidden_states,
    over_logits,
    response_logps,
    sequence_logps,
    token_budget_batches,
)
from anchora.prompts import encode_prompt, encode_response, token_texts
from parameters.measure import MeasureParams

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2)),
}
PAIRS = [([5, 6, 7], [8, 9, 2]), ([11, 12, 13, 14, 15], [16, 2]), ([3], [4, 5, 6, 7, 2])]


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def test_sequence_logps_are_those_of_the_models_logits(model, monkeypatch):
    monkeypatch.setattr(logps, "CHUNK_LOGITS", 97 * 4)  # several chunks
    found = [logps for (logps,) in response_logps(model, PAIRS, 0, 64)]
    for (prompt, response), ours in zip(PAIRS, found, strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        expected = [logits[len(prompt) + i - 1, token].item() for i, token in enumerate(response)]
        assert ours == pytest.approx(expected, abs=1e-5)


def test_chunks_do_not_change_the_gradient(model, monkeypatch):
    gradients = []
    for chunk in (97 * 2, 2**24):
        monkeypatch.setattr(logps, "CHUNK_LOGITS", chunk)
        model.zero_grad()
        sequence_logps(model, collate(PAIRS, 0, "cpu")).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_model_that_scales_its_logits_is_refused():
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    check_head(model, 0)
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 30
        return output

    model.forward = scaled
    with pytest.raises(UserError, match="not supported"):
        check_head(model, 0)


def information(model, **changes):
    settings = {"copies": 8, "rate": 0.1, "layer_share": 0.5, "seed": 0, "pad_token_id": 0, "budget": 64} | changes
    return dropout_information(model, PAIRS, **settings)


def test_mc_dropout_passes_differ_and_repeat_with_their_seed(model):
    first = information(model)
    assert min(first) > 1e-7
    assert first == information(model)
    assert first != information(model, seed=1)


def test_mc_dropout_at_rate_0_is_the_plain_pass(model):
    assert max(information(model, rate=0.0)) < 1e-6
    batch = collate(PAIRS, 0, "cpu")
    backbone = model.get_decoder()
    with torch.no_grad():
        plain = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        with injected_dropout(model, 0.0, 0.5, copies=3, seed=0):
            repeated = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
    real = batch.attention_mask.repeat_interleave(3, dim=0).bool()
    assert torch.allclose(repeated[real], plain.repeat_interleave(3, dim=0)[real], atol=1e-5)


def test_mc_dropout_leaves_the_model_as_it_was(model):
    before = model(torch.tensor([[5, 6, 7]])).logits
    information(model)
    assert torch.equal(before, model(torch.tensor([[5, 6, 7]])).logits)


def test_mc_dropout_equals_whole_copies_under_the_same_masks(model):
    """Repeating only where the masked layers begin gives what K whole copies of the row give."""
    prompt, response = PAIRS[0]
    batch, repeated = (collate([(prompt, response)] * n, 0, "cpu") for n in (1, 4))
    with torch.no_grad():
        with injected_dropout(model, 0.3, 0.5, copies=4, seed=3):
            tail = model.get_decoder()(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        with injected_dropout(model, 0.3, 0.5, copies=1, seed=3):
            whole = model.get_decoder()(input_ids=repeated.input_ids, attention_mask=repeated.attention_mask, use_cache=False)
    assert torch.allclose(tail.last_hidden_state, whole.last_hidden_state, atol=1e-5)
    assert not torch.allclose(whole.last_hidden_state[0], whole.last_hidden_state[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["mistral", "olmo2", "granite"])
def test_mc_dropout_masks_the_feed_forward_blocks_of_any_layer(kind):
    """Also where a norm (OLMo 2) or a factor (Granite) stands behind the block: against masks put on by hand."""
    torch.manual_seed(0)
    others = {
        "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SIZES)),
        "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, residual_multiplier=0.2)),
    }
    model = (MODELS | others)[kind]().eval()
    assert dropout.adds_its_mlp(model, decoder_layers(model)[-1]) == (kind == "mistral")
    batch = collate(PAIRS, 0, "cpu")
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    with torch.no_grad(), injected_dropout(model, 0.3, 0.5, copies=2, seed=3):
        found = model.get_decoder()(**inputs).last_hidden_state
    generator = torch.Generator().manual_seed(3)
    masks = [(torch.rand((6, 1, 32), generator=generator) >= 0.3) / 0.7 for _ in range(2)]
    for layer, mask in zip(decoder_layers(model)[-2:], masks, strict=True):
        layer.mlp.register_forward_hook(lambda mlp, args, output, mask=mask: output * mask)
    with torch.no_grad():
        twice = {name: value.repeat_interleave(2, dim=0) if torch.is_tensor(value) else value for name, value in inputs.items()}
        expected = model.get_decoder()(**twice).last_hidden_state
    assert torch.allclose(found, expected, atol=1e-5)


def test_mc_dropout_is_the_mutual_information_over_the_whole_vocabulary(model, monkeypatch):
    """With more candidates than tokens: by hand from K thinned passes over the response [8, 9, 2]. With fewer, close to it."""
    prompt, response = PAIRS[0]
    batch = collate([(prompt, response)], 0, "cpu")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)  # sharper than at random: information above float32's rounding
    with torch.no_grad(), injected_dropout(model, 0.3, 0.5, copies=4, seed=0):
        states = model.get_decoder()(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
        p = model.get_output_embeddings()(states[:, 2:5]).softmax(-1)  # (copies, tokens, vocabulary)
    entropy = torch.distributions.Categorical(probs=p).entropy().mean(0)
    expected = (torch.distributions.Categorical(probs=p.mean(0)).entropy() - entropy).mean().item()
    settings = {"copies": 4, "rate": 0.3, "layer_share": 0.5, "seed": 0, "pad_token_id": 0, "budget": 64}
    (found,) = dropout_information(model, [(prompt, response)], **settings)
    assert found == pytest.approx(expected, rel=0.01, abs=1e-7)
    monkeypatch.setattr(dropout, "CANDIDATES", 60)
    (fewer,) = dropout_information(model, [(prompt, response)], **settings)
    assert fewer == pytest.approx(expected, rel=0.25, abs=1e-7) and fewer != found


def test_mc_dropout_refuses_a_model_without_known_layers():
    class Odd(torch.nn.Module):
        def get_decoder(self):
            return torch.nn.Linear(2, 2)

    with pytest.raises(UserError, match="no decoder layers"):
        decoder_layers(Odd())


def test_recorded_entropy_is_that_of_the_raw_distribution(policy):
    """Sampling at another temperature and top-p leaves the entropy of the raw next-token distributions."""
    model, tokenizer = policy
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "Work out 3 + 4."}], "")
    rows = generate(model, tokenizer, [prompt] * 3, samples=2, temperature=1.7, top_p=0.9, max_new_tokens=12, shard_size=2, seed=0)
    for response in [response for responses in rows for response in responses]:
        batch = collate([(prompt, response.ids)], tokenizer.pad_token_id, "cpu")
        with torch.no_grad():
            entropies = over_logits(
                model, hidden_states(model, batch), lambda logits: torch.distributions.Categorical(logits=logits).entropy()
            )
        assert response.entropy == pytest.approx(entropies.mean().item(), abs=1e-4)


def test_sampling_stops_at_eos_and_marks_what_was_cut(policy):
    model, tokenizer = policy
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "Work out 3 + 4."}], "")
    (whole,), (cut,) = (generate(model, tokenizer, [prompt], max_new_tokens=length, shard_size=8, seed=0)[0] for length in (40, 3))
    assert whole.finished and whole.ids[-1] == tokenizer.eos_token_id
    assert whole.ids.count(tokenizer.eos_token_id) == 1
    assert whole.text == "3 + 4 = 7. #### 7"
    assert not cut.finished and len(cut.ids) == 3


END = SimpleNamespace(pad_token_id=0, eos_token_id=2, decode=lambda ids, **_: str(ids))


def three_samples_each(model) -> list[generation.Response]:
    prompts = [prompt for prompt, _ in PAIRS]
    return sum(generate(model, END, prompts, samples=3, temperature=1.0, max_new_tokens=8, shard_size=3, seed=0), [])


def agree(first: list[generation.Response], second: list[generation.Response]) -> None:
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
    assert rows[:2] == [(3, 4), (9, 1)]  # the longest prompt but its last token once, then that token of every sample
    monkeypatch.setattr(generation, "prompt_cache", lambda *_: None)
    agree(shared, three_samples_each(model))


@pytest.mark.parametrize("window", [2, 4])
def test_a_sliding_window_shares_its_cache_too(window, monkeypatch):
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window, initializer_range=0.2)).eval()
    shared = three_samples_each(model)
    monkeypatch.setattr(generation, "prompt_cache", lambda *_: None)
    agree(shared, three_samples_each(model))


def test_a_model_with_linear_attention_is_sampled_without_a_shared_cache(monkeypatch):
    torch.manual_seed(0)
    model = Qwen3NextForCausalLM(
        Qwen3NextConfig(**SIZES, head_dim=8, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8,
                        linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
                        shared_expert_intermediate_size=16)
    ).eval()  # fmt: skip
    found = three_samples_each(model)
    monkeypatch.setattr(generation, "prompt_cache", lambda *_: None)
    agree(found, three_samples_each(model))


@pytest.mark.parametrize("stop_strings", [[], ["####"]])
def test_responses_that_have_ended_leave_the_batch_and_the_others_stay_as_they_are(policy, stop_strings, monkeypatch):
    model, tokenizer = policy
    texts = ["Work out 3 + 4.", "Mia has 31 eggs and 9 pens. Leo brings 12 eggs. How many eggs are there?", "Hello.", "Work out 12 - 5."]
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}], "") for text in texts]

    def answers(segment: int) -> list[generation.Response]:
        monkeypatch.setattr(generation, "SEGMENT", segment)
        settings: dict = {"max_new_tokens": 40, "shard_size": 4, "seed": 0, "stop_strings": stop_strings}
        return [row for (row,) in generate(model, tokenizer, prompts, **settings)]

    together, sizes = answers(40), []
    hook = model.get_decoder().register_forward_pre_hook(lambda _, args, named: sizes.append(len(named["input_ids"])), with_kwargs=True)
    parted = answers(4)
    hook.remove()
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 4 and sizes[-1] < 4
    for one, other in zip(together, parted, strict=True):
        assert (one.ids, one.text, one.finished) == (other.ids, other.text, other.finished)
        assert one.entropies == pytest.approx(other.entropies, abs=1e-3)


def test_a_shards_samples_do_not_depend_on_other_shards(policy):
    model, tokenizer = policy
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": f"Work out {i} + 4."}], "") for i in range(1, 7)]
    settings = {"samples": 2, "temperature": 1.0, "max_new_tokens": 16, "shard_size": 3, "seed": 5}
    assert generate(model, tokenizer, prompts, **settings)[:3] == generate(model, tokenizer, prompts[:3], **settings)


def test_the_trained_and_the_sampled_response_start_at_the_same_token(policy):
    _, tokenizer = policy
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "2?"}], "") + encode_response(tokenizer, "4 eggs")
    chat = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "4 eggs"}]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(chat, tokenize=False)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids.count(tokenizer.eos_token_id) == 1


def test_token_budget_keeps_every_row_once():
    lengths = [5, 50, 7, 7, 100, 1]
    batches = token_budget_batches(lengths, 60)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60 for batch in batches)


def test_a_line_holds_a_prompt_and_one_response_or_all_of_them():
    """Responses are predicted from the position before; the second one, behind the first, from the prompt's last."""
    row = ([1, 2], [3], [4, 5])
    apart, together = collate([row], 0, "cpu"), collate([row], 0, "cpu", shared=True)
    assert isinstance(apart, Batch)
    assert apart.input_ids.tolist() == [[1, 2, 3, 0], [1, 2, 4, 5]]
    assert apart.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert apart.predicted_at.tolist() == [1, 5, 6]
    assert together.input_ids.tolist() == [[1, 2, 3, 4, 5]]
    assert together.position_ids.tolist() == [[0, 1, 2, 2, 3]]
    assert together.predicted_at.tolist() == [1, 1, 3]
    assert apart.targets.tolist() == together.targets.tolist() == [3, 4, 5]
    assert together.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert together.sums(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, 5.0]


def test_a_shared_prompt_gives_the_log_probs_of_separate_rows(model):
    rows = [([5, 6, 7], [8, 9, 2], [10]), ([11, 12], [13, 2], [14, 15, 16, 17]), ([3], [4, 2])]
    assert can_share_prompts(model, 0, 16)
    together, apart = (response_logps(model, rows, 0, 64, shared) for shared in (True, False))
    for ours, theirs in zip(together, apart, strict=True):
        for first, second in zip(ours, theirs, strict=True):
            assert first == pytest.approx(second, abs=1e-5)


def test_prompts_are_not_shared_where_the_mask_would_be_lost(model):
    model.config.sliding_window = 8
    assert not can_share_prompts(model, 0, 9) or not getattr(model.config, "use_sliding_window", True)
    model.config.sliding_window = None
    model.set_attn_implementation("eager")
    assert not can_share_prompts(model, 0, 9)  # adds its mask to the scores: a boolean one would do nothing


def test_regenerated_responses_disagree_repeatably(policy, monkeypatch, tmp_path):
    """One minus the agreement of K responses under dropout: 0 where they all agree, the same again, also when a run is cut."""
    mode = {"uncertainty_dropout_mode": "regenerate", "uncertainty_dropout_samples": 3, "sampling_batch_size": 2, "max_new_tokens": 16}
    params = params_as(MeasureParams, **mode, temperature=2.0)
    prompts = [[{"role": "user", "content": f"Work out {number} + 4."}] for number in range(3)]
    first = measure.measure(*policy, prompts, [], params, seed=1, samples=1).mc_dropout
    assert ((first >= 0) & (first <= 1)).all() and first.max() > 0
    assert measure.measure(*policy, prompts, [], params, seed=1, samples=1).mc_dropout.tolist() == first.tolist()
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path))
    monkeypatch.setattr(parallel, "_calls", itertools.count())
    assert measure.measure(*policy, prompts, [], params, seed=1, samples=1).mc_dropout.tolist() == first.tolist()
    assert len(list((tmp_path / "parts-2").iterdir())) == 6  # three copies of two shards
    sure = params_as(MeasureParams, **mode, uncertainty_dropout_rate=0.0, temperature=0.001)
    assert measure.measure(*policy, prompts, [], sure, seed=1, samples=1).mc_dropout.tolist() == [0, 0, 0]


def test_the_texts_of_tokens_are_the_whole(policy):
    tokenizer = policy[1]
    for text in ("7 + 8 = 15. #### 15", " caf\u00e9 \U0001f642 \u05e9\u05dc\u05d5\u05dd", "a  b\n c"):
        ids = encode_response(tokenizer, text)
        pieces = token_texts(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids[:-1]) and len(pieces) == len(ids) and pieces[-1] == ""
