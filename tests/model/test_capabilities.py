"""What a model's code can do, found by trying it: shared prompts, and an output layer that is all there is to its logits."""

import pytest
import torch
from tiny_models import MODELS, PAIRS, SIZES
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from anchora.model.batches import collate
from anchora.model.capabilities import can_share_prompts, check_head
from anchora.model.loading import check_positions
from anchora.model.logps import sequence_logps
from anchora.model.lora import add_lora
from anchora.run.errors import UserError
from anchora.uncertainty.dropout import check_dropout


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


def test_prompts_are_not_shared_where_the_mask_would_be_lost(model):
    model.config.sliding_window = 8
    assert not can_share_prompts(model, 0, 9) or not getattr(model.config, "use_sliding_window", True)
    model.config.sliding_window = None
    model.set_attn_implementation("eager")
    assert not can_share_prompts(model, 0, 9)  # adds its mask to the scores: a boolean one would do nothing


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
        check_positions(model, 129, {"pretrained_model_name_or_path": "gemma"})
    for rank in (0, 4):
        model.zero_grad()
        trained = add_lora(model, rank, 4, 0)
        sequence_logps(trained, collate(PAIRS, 0, "cpu")).sum().backward()
        assert all(weight.requires_grad == (weight.grad is not None) for weight in trained.parameters()), rank
        assert sum(weight.requires_grad for weight in trained.parameters()) > 4
