"""Adapters on models of every kind: saved, loaded, trained on, sampled and merged, they are one policy in float32; beside the weights in
bfloat16 and in four bits, sampling and MC dropout serve them."""

from pathlib import Path

import pytest
import torch
from conftest import params_as
from flash_on_cpu import emulate
from peft import LoraConfig, get_peft_model
from tiny_models import MODELS, PAIRS, SIZES
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from anchora.kl.merging import merged_policy
from anchora.model.adapters import check_shapes, read_adapter_config
from anchora.model.capabilities import check_head, check_lora
from anchora.model.loading import load_causal_lm, load_policy
from anchora.model.logps import response_logps
from anchora.model.lora import add_lora, outside_decoder, save_adapter
from anchora.model.machine import autocast, training_dtype
from anchora.model.params import PolicyParams
from anchora.model.pins import Pretrained, from_folder
from anchora.run.errors import UserError
from anchora.sampling import decode
from anchora.sampling.responses import generate
from anchora.uncertainty.dropout import check_dropout, dropout_information

VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 16}
TEXT = SIZES | {"head_dim": 8, "sliding_window": 64, "max_position_embeddings": 128, "pad_token_id": 0}
NEXT = {
    "head_dim": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
KINDS = MODELS | {
    "tied embeddings": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "fused projections: Phi-3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES, pad_token_id=0)),
    "norms behind the blocks: OLMo 2": lambda: Olmo2ForCausalLM(Olmo2Config(**SIZES)),
    "beside attention: GPT-NeoX": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "added to in place: Falcon": lambda: FalconForCausalLM(
        FalconConfig(vocab_size=97, hidden_size=32, num_hidden_layers=4, num_attention_heads=4)
    ),
    "experts: Mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1)),
    "experts and linear attention: Qwen3-Next": lambda: Qwen3NextForCausalLM(Qwen3NextConfig(**SIZES, **NEXT)),
    "beside a vision tower: Gemma 3": lambda: Gemma3ForConditionalGeneration(Gemma3Config(text_config=TEXT, vision_config=VISION)),
}
IN_FOUR_BITS = ("llama", "gpt2", "tied embeddings", "experts and linear attention: Qwen3-Next", "beside a vision tower: Gemma 3")
FORMATS = [
    *(pytest.param(kind, bf16, False, id=f"{kind}, {'bfloat16' if bf16 else 'float32'}") for kind in KINDS for bf16 in (False, True)),
    *(pytest.param(kind, False, True, id=f"{kind}, 4 bits") for kind in IN_FOUR_BITS),
]


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 90 words, for models of 97."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, 90)}
    plain = Tokenizer(WordLevel(words, unk_token="w3"))
    plain.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", pad_token="<pad>", bos_token="<s>")


def base_of(kind: str, path: Path, dtype: torch.dtype = torch.float32) -> Pretrained:
    """The folder of a model with weights so large that an adapter's loss shows."""
    torch.manual_seed(0)
    model = KINDS[kind]()
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.mul_(4)
    model.to(dtype).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return from_folder(path)


def logps(model) -> torch.Tensor:
    return torch.tensor([value for (row,) in response_logps(model, PAIRS, 0, 64) for value in row])


def sampled(model, temperature: float) -> list[list[int]]:
    prompts = [prompt for prompt, _ in PAIRS]
    rows = generate(model, tokenizer(), prompts, samples=3, temperature=temperature, max_new_tokens=8, responses_at_once=9, seed=0)
    return [response.ids for row in rows for response in row]


@pytest.mark.parametrize(("kind", "bf16", "in_4bit"), FORMATS)
def test_an_adapter_serves_every_stage(kind, bf16, in_4bit, tmp_path, monkeypatch):
    """Trained, loaded again, sampled with and merged; in float32 its responses, greedy and drawn, are those of the merged policy."""
    if in_4bit:
        pytest.importorskip("bitsandbytes")
    params = params_as(PolicyParams, lora_rank=4, use_bf16=bf16, load_in_4bit=in_4bit, max_length=32)
    dtype, base = training_dtype(bf16, 4), base_of(kind, tmp_path / "base", torch.bfloat16 if bf16 else torch.float32)
    model, _ = load_causal_lm(base, params, dtype, trainable=True)
    with autocast(bf16):
        check_head(model, 0)
        check_dropout(model)
        model = add_lora(model, 4, 8, seed=0)
        check_lora(model, 0)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    with autocast(bf16):
        trained = logps(model.eval())
    save_adapter(tmp_path / "adapter", model, tokenizer(), ("sha256:0", None))
    read_adapter_config(tmp_path / "adapter")
    check_shapes(tmp_path / "adapter", tmp_path / "base", "base_model_name")

    adapter = Pretrained(str(tmp_path / "adapter"), base=base)
    again, _ = load_causal_lm(adapter, params, dtype, trainable=True)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == {
        name for name, weight in again.named_parameters() if weight.requires_grad
    }
    reference, _ = load_policy(adapter, params, dtype)
    with autocast(bf16):
        assert torch.equal(logps(again.eval()), trained)
        assert (logps(reference) - trained).abs().max() < 1e-5

    policy, _ = load_policy(adapter, params)
    merged, _ = merged_policy(adapter, params)
    of_merged, of_base = logps(merged.float().eval()), logps(load_policy(base, params)[0])
    assert (of_merged - of_base).abs().mean() > 0.03
    assert (of_merged - logps(policy)).abs().mean() < (0.02 if bf16 else 1e-5)
    if not bf16:
        assert (sampled(policy, 0.0), sampled(policy, 1.0)) == (sampled(merged, 0.0), sampled(merged, 1.0))
    settings = {"rate": 0.1, "layer_share": 0.5, "seed": 0, "pad_token_id": 0, "budget": 64}
    assert min(dropout_information(policy, PAIRS, copies=4, **settings)) > 0
    shared = sampled(policy, 1.0)
    monkeypatch.setattr(decode, "prompt_cache", lambda *_, **__: None)
    assert shared == sampled(policy, 1.0)


def test_what_text_passes_by_has_no_adapters():
    model = add_lora(KINDS["beside a vision tower: Gemma 3"](), 4, 8, seed=0)
    adapted = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted and all(".language_model." in name for name in adapted)
    assert all(outside_decoder(KINDS[kind]()) is None for kind in MODELS)


def test_four_bit_layers_without_an_adapter_are_merged_as_they_were(tmp_path):
    """An adapter of PEFT on two of seven layers: the others, too, are what was trained on, not what they were quantised from."""
    pytest.importorskip("bitsandbytes")
    params, base = params_as(PolicyParams, lora_rank=2, load_in_4bit=True, max_length=32), base_of("llama", tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config).save_pretrained(tmp_path / "adapter")
    adapter = Pretrained(str(tmp_path / "adapter"), base=base)
    policy, merged = load_policy(adapter, params)[0], merged_policy(adapter, params)[0].eval()
    original, _ = merged_policy(adapter, params_as(PolicyParams, lora_rank=2, max_length=32))
    assert (logps(merged) - logps(policy)).abs().mean() < 1e-5 < 0.03 < (logps(original.eval()) - logps(policy)).abs().mean()


EMBEDDED = {
    "the output layer": {"target_modules": ["q_proj", "lm_head"]},
    "token embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize("kind", ["llama", "tied embeddings"])
@pytest.mark.parametrize("name", EMBEDDED)
def test_adapters_on_embeddings_or_the_output_layer_are_refused(kind, name, tmp_path):
    """Merged into tied weights, one would change both; MC dropout reads the output layer's own weights."""
    base = base_of(kind, tmp_path / "base")
    config = LoraConfig(r=2, task_type="CAUSAL_LM", **EMBEDDED[name])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    adapter = Pretrained(str(tmp_path / "adapter"), base=base)
    for load in (
        lambda: check_shapes(tmp_path / "adapter", tmp_path / "base", "base_model_name: adapter"),
        lambda: load_policy(adapter, params_as(PolicyParams, lora_rank=2, max_length=32)),
    ):
        with pytest.raises(UserError, match="adapts token embeddings or the output layer; only plain LoRA is taken: merge it"):
            load()


def test_an_adapter_that_took_its_start_out_of_the_base_is_refused(tmp_path):
    """PiSSA trains beside what is left of the base: put onto the base itself it is another policy."""
    base_of("llama", tmp_path / "base")
    config = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights="pissa")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"taken out of its base's \(init_lora_weights: pissa\); only plain LoRA is taken"):
        read_adapter_config(tmp_path / "adapter")


@pytest.mark.parametrize("in_4bit", [False, True])
def test_flash_attentions_kernels_get_no_float32_from_adapters_beside_the_weights(in_4bit, tmp_path, monkeypatch):
    """The adapters' own format is float32; what leaves a layer is bfloat16 again."""
    if in_4bit:
        pytest.importorskip("bitsandbytes")
    params = params_as(PolicyParams, lora_rank=4, use_bf16=True, load_in_4bit=in_4bit, max_length=32)
    base = base_of("llama", tmp_path / "base", torch.bfloat16)
    model, _ = load_causal_lm(base, params, torch.bfloat16, trainable=True)
    model = add_lora(model, 4, 8, seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    save_adapter(tmp_path / "adapter", model, tokenizer(), ("sha256:0", None))
    adapter = Pretrained(str(tmp_path / "adapter"), base=base)
    plain, _ = load_policy(adapter, params)
    emulate(monkeypatch, strict=True)
    flash = params.model_copy(update={"attn_implementation": "flash_attention_2"})
    policy, _ = load_policy(adapter, flash)
    assert policy.config._attn_implementation == "flash_attention_2"
    assert (logps(policy) - logps(plain)).abs().mean() < 0.02
    assert all(sampled(policy, 1.0))
    trained, _ = load_causal_lm(adapter, flash, torch.bfloat16, trainable=True)
    with autocast(True):
        assert (logps(trained.eval()) - logps(plain)).abs().mean() < 0.02
    settings = {"rate": 0.1, "layer_share": 0.5, "seed": 0, "pad_token_id": 0, "budget": 64}
    assert min(dropout_information(policy, PAIRS, copies=4, **settings)) > 0
