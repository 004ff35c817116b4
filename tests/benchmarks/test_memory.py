"""The counting of memory.py: its rules against what torch allocates for a small shape, and what the preset for 16 GB takes."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from tests.benchmarks.memory import CARD, LLAMA_135M, MISTRAL_7B, Count, Shape, disk, read_preset, stages, table
from transformers import LlamaConfig, LlamaForCausalLM

from anchora.model.batches import collate
from anchora.model.logps import response_logps, sequence_logps
from anchora.model.lora import add_lora, lora_layers
from anchora.sampling.responses import generate
from anchora.uncertainty.dropout import dropout_information

SMALL = Shape(vocabulary=512, hidden=128, intermediate=448, layers=4, heads=4, kv_heads=1)
RANK, PART = 16, 64
PAIR = tuple(list(range(start, start + PART)) for start in (5, 100, 200))
TOLERANCE = (0.9, 1.3)  # what is counted may be of what is measured: rather too much than too little


def small_policy(bf16: bool):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SMALL.vocabulary, hidden_size=SMALL.hidden, intermediate_size=SMALL.intermediate, num_hidden_layers=SMALL.layers,
        num_attention_heads=SMALL.heads, num_key_value_heads=SMALL.kv_heads, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    return add_lora(model.bfloat16() if bf16 else model, RANK, RANK, 0).eval()


def peak(function) -> int:
    """The most bytes that torch's allocator held at once while ``function`` ran, above what was there."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = highest = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def counted_of_measured(counted: float, function) -> None:
    ratio = counted / peak(function)
    print(f"counted / measured: {ratio:.2f}")
    assert TOLERANCE[0] <= ratio <= TOLERANCE[1], ratio


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_training(bf16, checkpointing):
    policy, rows = small_policy(bf16), [PAIR] * 4
    if checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.enable_input_require_grads()
    for module in policy.modules():
        module.training = getattr(module, "gradient_checkpointing", False)

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False) if bf16 else contextlib.nullcontext():
            sequence_logps(policy, collate(rows, 1, policy.device, True)).sum().backward()
        policy.zero_grad(set_to_none=False)

    counted_of_measured(Count(SMALL, RANK, False, 2 if bf16 else 4).training(4 * 3 * PART, checkpointing), step)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_scoring_and_sampling(bf16):
    policy, count = small_policy(bf16), Count(SMALL, RANK, False, 2 if bf16 else 4)
    for layer in lora_layers(policy):
        layer.cast_input_dtype_enabled = True  # as in an adapter that is loaded to sample with
    model = policy.get_base_model()
    pairs = [PAIR[:2]] * 8
    tokens = 8 * 2 * PART
    counted_of_measured(count.scoring(tokens), lambda: response_logps(model, pairs, 1, tokens))
    dropout: dict = {"copies": 4, "rate": 0.1, "layer_share": 0.25, "seed": 0, "pad_token_id": 1, "budget": tokens}
    counted_of_measured(count.dropout(tokens, 4, answers=tokens // 2), lambda: dropout_information(model, pairs, **dropout))
    model.generation_config.eos_token_id = None
    endless = SimpleNamespace(pad_token_id=1, eos_token_id=511, decode=lambda ids, **_: "")
    greedy = lambda: generate(model, endless, [PAIR[0]] * 32, max_new_tokens=PART // 2, responses_at_once=32, seed=0)  # noqa: E731
    counted_of_measured(sum(count.sampling(32, PART * 3 // 2, PART)), greedy)


def test_a_shape_has_its_parameters():
    """SmolLM2-135M has 134,515,008 parameters, Mistral-7B-v0.3 7,248,023,552; norms have 2 * layers + 1 times the hidden size."""
    for shape, parameters in ((LLAMA_135M, 134_515_008), (MISTRAL_7B, 7_248_023_552)):
        assert shape.decoder_weights() + shape.embedding_weights() + (2 * shape.layers + 1) * shape.hidden == parameters


def test_every_stage_of_the_preset_fits_a_card_of_16_gb():
    params = read_preset(ROOT / "presets" / "mistral-7b-16gb.yaml")
    assert max(stage.needed() for stage in stages(MISTRAL_7B, params)) <= CARD
    whole = read_preset(ROOT / "presets" / "mistral-7b.yaml")
    assert max(stage.needed() for stage in stages(MISTRAL_7B, whole)) > CARD  # the count can fail


def test_the_page_has_the_table_that_is_counted():
    params = read_preset(ROOT / "presets" / "mistral-7b-16gb.yaml")
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert table(MISTRAL_7B, params) in page
    for size in disk(MISTRAL_7B, params).values():
        assert f"{size / 1e9:.2f} GB" in page
