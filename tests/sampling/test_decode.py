"""The decode loop against transformers' `generate`: the same greedy tokens and entropies, and samples of the same distribution."""

import copy
import math

import pytest
import torch
from scipy.stats import chisquare
from tiny_models import END, MODELS, PAIRS, SIZES
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from anchora.model.loading import end_tokens
from anchora.model.lora import add_lora
from anchora.run.errors import UserError
from anchora.sampling import cache as caching
from anchora.sampling import decode as decoding
from anchora.sampling.cache import length_classes
from anchora.sampling.decode import filled_up
from anchora.sampling.responses import generate, generate_shard, padded_on_the_left

PROMPTS = [prompt for prompt, _ in PAIRS] + [[21, 22, 23, 24, 25, 26, 27, 28], [9, 8]]
MORE_MODELS = {
    "sliding": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=3)),
    "wide window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=64)),
    "mixture of experts": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
    "capped logits": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, sliding_window=4)),
    "scaled logits": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=2.0)),
    "tied embeddings": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "positions by alibi": lambda: BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)),
    "adapters": lambda: with_adapters(LlamaForCausalLM(LlamaConfig(**SIZES))),
}
SHARING = {"mistral", "llama", "qwen2", "gpt2", "wide window", "mixture of experts", "scaled logits", "tied embeddings", "adapters"}


def with_adapters(model):
    """LoRA layers that are not merged and change what the model says."""
    adapted = add_lora(model, 4, 4, 0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted.get_base_model()


@pytest.fixture(params=[*MODELS, *MORE_MODELS])
def kind(request) -> str:
    return request.param


@pytest.fixture
def any_model(kind):
    """Random weights, large enough that an attention or a position that is off changes tokens."""
    torch.manual_seed(0)
    model = (MODELS | MORE_MODELS)[kind]().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(4)
    return model


def by_transformers(model, prompts, max_new_tokens: int, **settings):
    """The tokens and raw entropies of `generate`, up to the first EOS: a list of (ids, entropies)."""
    ends, (ids, mask) = sorted(end_tokens(model, END)), padded_on_the_left(prompts, END.pad_token_id, "cpu")
    output = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=END.pad_token_id,
        return_dict_in_generate=True, output_logits=True, **settings,
    )  # fmt: skip
    rows = []
    for row, new in enumerate(output.sequences[:, ids.shape[1] :].tolist()):
        length = next((place + 1 for place, token in enumerate(new) if token in ends), len(new))
        logits = torch.stack([step[row] for step in output.logits[:length]]).float()
        rows.append((new[:length], torch.distributions.Categorical(logits=logits).entropy().tolist()))
    return rows


def raw_entropies(monkeypatch) -> list[list[float]]:
    """Let entropies be kept as they are, for they are rounded to four digits in a response; return where they go."""
    kept: list[list[float]] = []
    original = decoding.Draw.__post_init__

    def remember(draw):
        original(draw)
        kept.append(draw.entropies)

    monkeypatch.setattr(decoding.Draw, "__post_init__", remember)
    return kept


@pytest.mark.parametrize("samples", [1, 3])
def test_greedy_responses_and_entropies_are_those_of_generate(any_model, kind, samples, monkeypatch):
    """With three samples prompts are shared by the models that can; lengths of 1 to 8 tokens, in classes of their own."""
    monkeypatch.setattr(caching, "CLASS_TOKENS", 1)
    monkeypatch.setattr(decoding, "LEAST_ROOM", 4)  # so that rows outgrow their room
    kept = raw_entropies(monkeypatch)
    endless = by_transformers(any_model, PROMPTS, 20, do_sample=False)
    any_model.generation_config.eos_token_id = [endless[0][0][4], endless[3][0][9]]  # so that rows end at the latest there
    rows = generate(any_model, END, PROMPTS, samples=samples, max_new_tokens=20, responses_at_once=100, seed=0)
    assert decoding._attends.get(any_model, False) == (samples > 1 and kind in SHARING)
    order = sorted(range(len(PROMPTS)), key=lambda index: (len(PROMPTS[index]), index))
    expected = by_transformers(any_model, PROMPTS, 20, do_sample=False)
    assert min(len(ids) for ids, _ in expected) <= 5
    for place, index in enumerate(order):
        for sample in range(samples):
            ids, entropies = expected[index]
            assert rows[index][sample].ids == ids
            assert kept[0][place * samples + sample][: len(ids)] == pytest.approx(entropies, abs=1e-5)


def test_a_greedy_response_beside_samples_is_the_one_drawn_alone(any_model, monkeypatch):
    kept = raw_entropies(monkeypatch)
    any_model.generation_config.eos_token_id = by_transformers(any_model, PROMPTS, 6, do_sample=False)[0][0][4]
    settings = {"max_new_tokens": 12, "responses_at_once": 100, "seed": 0}
    alone = generate(any_model, END, PROMPTS, **settings)
    beside = generate(any_model, END, PROMPTS, samples=3, greedy_first=True, temperature=2.0, **settings)
    assert [len(responses) for responses in beside] == [4] * len(PROMPTS)
    assert [first.ids for first, *_ in beside] == [response.ids for (response,) in alone]
    for place, entropies in enumerate(kept[0]):
        length = min(len(entropies), len(kept[1][4 * place]))
        assert kept[1][4 * place][:length] == pytest.approx(entropies[:length], abs=1e-5)
    others = {tuple(response.ids) for first, *samples in beside for response in samples}
    assert len(others) > 2 * len(PROMPTS)


def test_samples_follow_the_distribution_of_generate(monkeypatch):
    """4,000 first tokens and 4,000 second ones behind a first, of 8 words; a chi-square test at level 1e-4 against exact figures."""
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": 8}
    model = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.6, eos_token_id=7)).eval()
    rows = generate(model, END, [[3, 4, 5]], samples=4000, temperature=1.3, max_new_tokens=2, responses_at_once=4000, seed=0)[0]
    assert decoding._attends[model]
    with torch.no_grad():
        first = (model(torch.tensor([[3, 4, 5]])).logits[0, -1].double() / 1.3).softmax(-1)
        second = (model(torch.tensor([[3, 4, 5, token] for token in range(8)])).logits[:, -1].double() / 1.3).softmax(-1)
    pairs = {(one,): first[one].item() for one in end_tokens(model, END)}
    pairs |= {(a, b): (first[a] * second[a, b]).item() for a in range(8) if (a,) not in pairs for b in range(8)}
    counts = dict.fromkeys(pairs, 0)
    for row in rows:
        counts[tuple(row.ids)] += 1
    common = [pair for pair in pairs if pairs[pair] * len(rows) >= 5]
    rest = 1 - sum(pairs[pair] for pair in common)
    observed = [counts[pair] for pair in common] + [len(rows) - sum(counts[pair] for pair in common)]
    assert len(common) > 10
    assert chisquare(observed, [*(pairs[pair] * len(rows) for pair in common), rest * len(rows)]).pvalue > 1e-4


def test_a_bfloat16_model_is_sampled_with_entropies_in_float32(monkeypatch):
    """Its prompts are not shared, for products of bfloat16 would round the attention's scores."""
    torch.manual_seed(0)
    model = MODELS["llama"]().to(torch.bfloat16).eval()
    kept = raw_entropies(monkeypatch)
    rows = generate(model, END, PROMPTS[:1], samples=2, max_new_tokens=8, responses_at_once=8, seed=0)
    assert not decoding._attends[model]
    ((ids, entropies),) = by_transformers(model, PROMPTS[:1], 8, do_sample=False)
    assert rows[0][0].ids == rows[0][1].ids == ids
    assert kept[0][0] == pytest.approx(entropies, abs=1e-5)


def test_what_a_response_draws_does_not_depend_on_when_others_leave(any_model):
    """Not on whether they leave at all, nor on whether prompts are shared."""
    any_model.generation_config.eos_token_id = list(range(2, 20))
    settings: dict = {"samples": 3, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12, "stop_strings": []}
    drawn = []
    for keep_ended in (False, True):
        torch.manual_seed(1)
        drawn.append([row.ids for row in generate_shard(any_model, END, PROMPTS, **settings, keep_ended=keep_ended)])
    assert drawn[0] == drawn[1] and len({len(ids) for ids in drawn[0]}) > 4


def test_the_attention_of_the_model_is_its_own_again(any_model):
    before = any_model.config._attn_implementation
    generate(any_model, END, PROMPTS, samples=2, temperature=1.0, max_new_tokens=3, responses_at_once=100, seed=0)
    assert any_model.config._attn_implementation == before


def test_a_model_that_attends_in_another_way_is_not_shared():
    """GPT-2 with scores scaled by its layers' numbers shares; one whose attention is eager does not, nor one that is off."""
    torch.manual_seed(0)
    scaled = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=4, n_head=4, scale_attn_by_inverse_layer_idx=True)).eval()
    eager = copy.deepcopy(scaled)
    eager.set_attn_implementation("eager")
    for model in (scaled, eager):
        rows = generate(model, END, PROMPTS, samples=2, max_new_tokens=6, responses_at_once=100, seed=0)
        expected = by_transformers(model, PROMPTS, 6, do_sample=False)
        assert [row.ids for row, _ in rows] == [ids for ids, _ in expected]
    assert not decoding._attends.get(eager, False)


def test_classes_hold_prompts_of_much_the_same_length():
    """From 256 tokens on, a prompt shorter than 7/8 of a class's longest begins the next class."""
    lengths = [100, 256, 230, 223, 90, 220, 10, 2]
    assert length_classes(lengths) == [[1, 2], [3, 5], [0, 4, 6], [7]]
    assert length_classes([5, 90, 7]) == [[0, 1, 2]]


def test_rows_from_the_end_take_the_places_of_those_that_left():
    assert filled_up([0, 3, 4]) == [0, 4, 3]
    assert filled_up([1, 2]) == [2, 1]
    assert filled_up([0, 1]) == [0, 1]


def test_logits_that_are_no_numbers_are_refused_in_one_line():
    model = MODELS["llama"]().eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[5, 0] = math.nan
    with pytest.raises(UserError, match="^LlamaForCausalLM: its logits are not finite, .*$"):
        generate(model, END, PROMPTS, samples=2, temperature=1.0, max_new_tokens=3, responses_at_once=100, seed=0)
