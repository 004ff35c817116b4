"""MC dropout against whole copies of the models under the same masks, and against the whole vocabulary."""

import itertools
import math

import pytest
import torch
from conftest import params_as
from tiny_models import MODELS, PAIRS, SIZES
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CodeGenConfig,
    CodeGenForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from anchora.model import processes
from anchora.model.batches import collate
from anchora.model.layers import decoder_layers
from anchora.model.seeds import derived_seed
from anchora.run.errors import UserError
from anchora.uncertainty import dropout
from anchora.uncertainty.dropout import InjectedDropout, check_dropout, dropout_information, mutual_information
from anchora.uncertainty.measure import measure
from anchora.uncertainty.params import MeasureParams


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
        with InjectedDropout(model, 0.0, 0.5, copies=3, seed=0):
            repeated = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
    real = batch.attention_mask.repeat_interleave(3, dim=0).bool()
    assert torch.allclose(repeated[real], plain.repeat_interleave(3, dim=0)[real], atol=1e-5)


def test_a_model_is_tried_once_not_at_every_batch(model):
    """Two passes of 8 tokens find how the first masked layer adds up; then each of three batches is one pass."""
    widths: list[int] = []
    handle = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for passes in (2 + 3, 3):
        widths.clear()
        information(model, budget=1)
        assert len(widths) == passes
    handle.remove()


def test_mc_dropout_leaves_the_model_as_it_was(model):
    before = model(torch.tensor([[5, 6, 7]])).logits
    information(model)
    assert torch.equal(before, model(torch.tensor([[5, 6, 7]])).logits)


def test_mc_dropout_equals_whole_copies_under_the_same_masks(model):
    """Repeating only where the masked layers begin gives what K whole copies of the row give."""
    prompt, response = PAIRS[0]
    batch, repeated = (collate([(prompt, response)] * n, 0, "cpu") for n in (1, 4))
    with torch.no_grad():
        with InjectedDropout(model, 0.3, 0.5, copies=4, seed=3):
            tail = model.get_decoder()(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        with InjectedDropout(model, 0.3, 0.5, copies=1, seed=3):
            whole = model.get_decoder()(input_ids=repeated.input_ids, attention_mask=repeated.attention_mask, use_cache=False)
    assert torch.allclose(tail.last_hidden_state, whole.last_hidden_state, atol=1e-5)
    assert not torch.allclose(whole.last_hidden_state[0], whole.last_hidden_state[1], atol=1e-3)


FALCON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
GPT = {"vocab_size": 97, "n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4}
LAYERS_OF_ALL_KINDS = {
    "a norm behind the block": lambda: Olmo2ForCausalLM(Olmo2Config(**SIZES)),
    "a factor behind the block": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, residual_multiplier=0.2)),
    "added to in place": lambda: FalconForCausalLM(FalconConfig(**FALCON)),
    "added to in place, two norms": lambda: FalconForCausalLM(FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=2)),
    "behind attention": lambda: FalconForCausalLM(FalconConfig(**FALCON, parallel_attn=False, alibi=True)),
    "beside attention: GPT-J": lambda: GPTJForCausalLM(GPTJConfig(**GPT)),
    "beside attention: CodeGen": lambda: CodeGenForCausalLM(CodeGenConfig(**GPT)),
    "beside attention: GPT-NeoX": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "beside attention: Phi": lambda: PhiForCausalLM(PhiConfig(**SIZES)),
    "beside attention: Cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES, pad_token_id=0, eos_token_id=2)),
    "beside attention: StableLM": lambda: StableLmForCausalLM(StableLmConfig(**SIZES, use_parallel_residual=True)),
    "plain": MODELS["mistral"],
}


@pytest.mark.parametrize("kind", LAYERS_OF_ALL_KINDS)
def test_mc_dropout_masks_the_feed_forward_blocks_of_any_layer(kind):
    """Whatever stands behind or beside the block: against masks put on by hand, which thin its output and nothing else."""
    torch.manual_seed(0)
    model = LAYERS_OF_ALL_KINDS[kind]().eval()
    check_dropout(model)
    assert dropout.adds_its_mlp(model, decoder_layers(model)[-1]) == (kind not in ("a norm behind the block", "a factor behind the block"))
    batch = collate(PAIRS, 0, "cpu")
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    with torch.no_grad(), InjectedDropout(model, 0.3, 0.5, copies=2, seed=3):
        masked = model.get_decoder()(**inputs).last_hidden_state
    generator = torch.Generator().manual_seed(3)
    masks = [(torch.rand((6, 1, 32), generator=generator) >= 0.3) / 0.7 for _ in range(2)]
    for layer, mask in zip(decoder_layers(model)[-2:], masks, strict=True):
        layer.mlp.register_forward_hook(lambda mlp, args, output, mask=mask: output * mask)
    with torch.no_grad():
        twice = {name: value.repeat_interleave(2, dim=0) if torch.is_tensor(value) else value for name, value in inputs.items()}
        expected = model.get_decoder()(**twice).last_hidden_state
    assert torch.allclose(masked, expected, atol=1e-5)


def test_mc_dropout_is_the_mutual_information_over_the_whole_vocabulary(model, monkeypatch):
    """With more candidates than tokens: by hand from K thinned passes over the response [8, 9, 2]. With fewer, close to it."""
    prompt, response = PAIRS[0]
    batch = collate([(prompt, response)], 0, "cpu")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)  # sharper than at random: information above float32's rounding
    with torch.no_grad(), InjectedDropout(model, 0.3, 0.5, copies=4, seed=derived_seed(0, "batch", 0)):
        states = model.get_decoder()(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
        p = model.get_output_embeddings()(states[:, 2:5]).softmax(-1)  # (copies, tokens, vocabulary)
    entropy = torch.distributions.Categorical(probs=p).entropy().mean(0)
    expected = (torch.distributions.Categorical(probs=p.mean(0)).entropy() - entropy).mean().item()
    settings = {"copies": 4, "rate": 0.3, "layer_share": 0.5, "seed": 0, "pad_token_id": 0, "budget": 64}
    (information,) = dropout_information(model, [(prompt, response)], **settings)
    assert information == pytest.approx(expected, rel=0.01, abs=1e-7)
    monkeypatch.setattr(dropout, "CANDIDATES", 60)
    (fewer,) = dropout_information(model, [(prompt, response)], **settings)
    assert fewer == pytest.approx(expected, rel=0.25, abs=1e-7) and fewer != information


def test_mutual_information_by_hand():
    """Two copies sure of different tokens: H(mean) = ln 2, mean H = 0. Two equal copies: 0."""
    sure = torch.tensor([[[1 - 1e-7, 1e-7], [1e-7, 1 - 1e-7]]]).log()
    equal = torch.tensor([[[0.3, 0.7], [0.3, 0.7]]]).log()
    assert mutual_information(sure).item() == pytest.approx(math.log(2), abs=1e-4)
    assert mutual_information(equal).item() == pytest.approx(0, abs=1e-6)


def test_mc_dropout_refuses_a_model_without_known_layers():
    class Odd(torch.nn.Module):
        def get_decoder(self):
            return torch.nn.Linear(2, 2)

    with pytest.raises(UserError, match="no decoder layers"):
        decoder_layers(Odd())


def test_what_mc_dropout_can_serve_is_found_before_training(model):
    """GPTBigCode gives its states the shape that its input had; the others serve, and are left as they were."""
    check_dropout(model)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks or layer.mlp._forward_hooks for layer in decoder_layers(model))
    starcoder = GPTBigCodeForCausalLM(GPTBigCodeConfig(vocab_size=97, n_embd=32, n_layer=4, n_head=4)).eval()
    with pytest.raises(UserError, match="GPTBigCodeForCausalLM: its layers could not be repeated"):
        check_dropout(starcoder)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_dropout_that_thins_more_than_feed_forward_blocks_is_found_before_training(monkeypatch, precision):
    """Falcon adds its attention to the block's output in place: what was kept of it is then the sum of the two."""

    def keep_without_copy(self, mlp, args, output):
        self.rows, self.mlp_output = output.shape[0], output

    torch.manual_seed(0)
    model = FalconForCausalLM(FalconConfig(**FALCON)).eval()
    model = model.to(torch.bfloat16) if precision == "bfloat16" else model
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        check_dropout(model)
        monkeypatch.setattr(InjectedDropout, "keep_mlp_output", keep_without_copy)
        with pytest.raises(UserError, match="FalconForCausalLM: its layers give other states"):
            check_dropout(model)


def test_rows_that_do_not_stand_alone_are_found_before_training():
    """Layers that move states from row to row: the copies of a row would be those of others."""
    model = MODELS["mistral"]().eval()
    decoder_layers(model)[-1].register_forward_hook(lambda layer, args, output: output.roll(1, dims=0))
    with pytest.raises(UserError, match="other states"):
        check_dropout(model)


@pytest.mark.parametrize("kind", ["bloom", "gpt_oss"])
def test_mc_dropout_refuses_feed_forward_blocks_of_another_kind(kind):
    """BLOOM's adds the residual itself, which a mask would thin out too; gpt-oss's returns its router's scores beside the states."""
    others = {
        "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)),
        "gpt_oss": lambda: GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1)),
    }
    with pytest.raises(UserError, match="MC dropout cannot serve it"):
        information(others[kind]().eval())


def test_regenerated_responses_disagree_repeatably(policy, monkeypatch, tmp_path):
    """One minus the agreement of K responses under dropout: 0 where they all agree, the same again, also when a run is cut."""
    shards = {"sampling_batch_size": 1, "samples_per_prompt": 2, "max_new_tokens": 16}  # two responses at once
    mode = {"uncertainty_dropout_mode": "regenerate", "uncertainty_dropout_samples": 3, **shards}
    params = params_as(MeasureParams, **mode, temperature=2.0)
    rows = [{"prompt": [{"role": "user", "content": f"Work out {number} + 4."}]} for number in range(3)]
    first = measure(*policy, rows, [], params, seed=1, samples=1).mc_dropout
    assert ((first >= 0) & (first <= 1)).all() and first.max() > 0
    assert measure(*policy, rows, [], params, seed=1, samples=1).mc_dropout.tolist() == first.tolist()
    monkeypatch.setenv("ANCHORA_STAGE_SCRATCH", str(tmp_path))
    monkeypatch.setattr(processes, "_calls", itertools.count())
    assert measure(*policy, rows, [], params, seed=1, samples=1).mc_dropout.tolist() == first.tolist()
    assert len(list((tmp_path / "parts-1").iterdir())) == 6  # three copies of two shards
    longer = params_as(MeasureParams, **mode | {"max_new_tokens": 40})  # some responses end long before others, and masks have places
    assert len(measure(*policy, rows, [], longer, seed=1, samples=1).mc_dropout) == 3
    sure = params_as(MeasureParams, **mode, uncertainty_dropout_rate=0.0, temperature=0.001)
    assert measure(*policy, rows, [], sure, seed=1, samples=1).mc_dropout.tolist() == [0, 0, 0]
