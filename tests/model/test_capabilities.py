"""What a model's code can do, found by trying it: shared prompts, and an output layer that is all there is to its logits."""

import pytest
import torch
from tiny_models import MODELS, PAIRS, SIZES
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GraniteConfig,
    GraniteForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MambaConfig,
    MambaForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from anchora.model.batches import collate
from anchora.model.capabilities import can_share_prompts, check_head, check_lora
from anchora.model.loading import check_positions
from anchora.model.logps import sequence_logps
from anchora.model.lora import add_lora
from anchora.model.pins import from_folder
from anchora.run.errors import UserError
from anchora.uncertainty.dropout import check_dropout

ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYERS = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHER_LOGITS = {  # scaled by 1/8, 1/16, capped at 30, capped at 30
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES, **ENDS)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8)),
    "recurrent gemma": lambda: RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**LAYERS)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", OTHER_LOGITS)
def test_scaled_or_capped_logits_are_refused_however_small(kind, dtype):
    """Random weights give logits below 1, which a cap leaves as they are, and whose log-probs a factor hardly changes."""
    torch.manual_seed(0)
    model = OTHER_LOGITS[kind]().to(dtype).eval()
    with pytest.raises(UserError, match="^[A-Za-z0-9]*ForCausalLM: its logits are not its output layer over its backbone; not supported$"):
        check_head(model, 0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_plain_logits_pass_and_one_percent_more_do_not(model, precision):
    model = model.to(torch.bfloat16) if precision == "bfloat16" else model
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 1.01
        return output

    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        check_head(model, 0)
        model.forward = scaled
        with pytest.raises(UserError, match="not supported"):
            check_head(model, 0)


def test_states_that_are_changed_before_the_output_layer_are_refused():
    """MiniCPM divides them by a number of its own."""
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()

    def divided(input_ids, **kwargs):
        output = model.get_decoder()(input_ids=input_ids, **kwargs)
        output.logits = model.lm_head(output.last_hidden_state / 2)
        return output

    model.forward = divided
    with pytest.raises(UserError, match="not supported"):
        check_head(model, 0)


UNUSABLE = {
    "modernbert decoder": lambda: ModernBertDecoderForCausalLM(
        ModernBertDecoderConfig(**LAYERS, **ENDS, cls_token_id=3, sep_token_id=4)
    ),
    "llama 4": lambda: Llama4ForCausalLM(Llama4TextConfig(**SIZES, **ENDS, head_dim=8, num_local_experts=2, intermediate_size_mlp=48)),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_model_whose_backbone_cannot_be_asked_is_refused_in_one_line(kind):
    """ModernBERT's decoder calls its output layer decoder, and Llama 4's text model is its own."""
    model = UNUSABLE[kind]().eval()
    for check in (lambda: check_head(model, 0), lambda: check_dropout(model)):
        with pytest.raises(UserError) as error:
            check()
        assert str(error.value).startswith(type(model).__name__) and "\n" not in str(error.value)


NO_ADAPTERS = {
    "phimoe": (lambda: PhimoeForCausalLM(PhimoeConfig(**SIZES, num_local_experts=2)), "does not compute with LoRA adapters"),
    "mamba": (lambda: MambaForCausalLM(MambaConfig(**LAYERS)), "PEFT puts no adapters on MambaForCausalLM"),
}


@pytest.mark.parametrize("kind", NO_ADAPTERS)
def test_a_model_that_takes_no_lora_adapters_is_refused_in_one_line(kind):
    """PhiMoE's router is a linear layer that returns two tensors; PEFT refuses Mamba's projections."""
    make, words = NO_ADAPTERS[kind]
    with pytest.raises(UserError, match=f"^lora_rank: .*{words}.* set it to 0$"):
        check_lora(add_lora(make(), 4, 4, 0), 0)


def test_adapters_that_compute_pass(model):
    check_lora(add_lora(model, 4, 4, 0), 0)


def test_prompts_are_not_shared_where_the_mask_would_be_lost(model):
    model.config.sliding_window = 8
    assert not can_share_prompts(model, 0, 9) or not getattr(model.config, "use_sliding_window", True)
    model.config.sliding_window = None
    model.set_attn_implementation("eager")
    for _ in ("float32", "bfloat16"):  # where rounding hides what the lost mask of a small model changes
        assert not can_share_prompts(model, 0, 9)  # adds its mask to the scores: a boolean one would do nothing
        model.to(torch.bfloat16)
    model.set_attn_implementation("sdpa")
    assert can_share_prompts(model, 0, 9)


def test_a_model_that_also_sees_is_trained_on_text_alone():
    """Gemma 3's sizes and window stand in the configuration of its text part; its vision tower has no gradient of text."""
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 16,
    }
    text = SIZES | {"head_dim": 8, "sliding_window": 64, "max_position_embeddings": 128, "pad_token_id": 0}
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision)).eval()
    check_head(model, 0)
    check_dropout(model)
    assert can_share_prompts(model, 0, 64) and not can_share_prompts(model, 0, 65)
    with pytest.raises(UserError, match="reads 128 tokens at most"):
        check_positions(model, 129, from_folder("gemma"))
    for rank in (0, 4):
        model.zero_grad()
        trained = add_lora(model, rank, 4, 0)
        sequence_logps(trained, collate(PAIRS, 0, "cpu")).sum().backward()
        assert all(weight.requires_grad == (weight.grad is not None) for weight in trained.parameters()), rank
        assert sum(weight.requires_grad for weight in trained.parameters()) > 4
