"""How many tokens a model reads: where its positions end, and where those of one line change with another line's length."""

import pytest
import torch
import transformers
from tiny_models import SIZES
from transformers import AutoModelForSequenceClassification, LlamaConfig, Phi3Config, Phi3ForCausalLM, PhimoeConfig, PhimoeForCausalLM

from anchora.model.loading import check_positions
from anchora.model.pins import from_folder
from anchora.model.positions import max_positions, max_steady_positions
from anchora.run.errors import UserError
from anchora.verifiers.pairs import max_pair_length

ENCODER = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 1}
BEHIND_PADDING = {  # with 40 rows of positions, which begin behind the padding index, 1 in all of them
    "CamembertConfig": {},
    "Data2VecTextConfig": {},
    "EsmConfig": {"position_embedding_type": "absolute", "pad_token_id": 1, "mask_token_id": 4},
    "IBertConfig": {},
    "LongformerConfig": {"attention_window": 4, "sep_token_id": 2},
    "LukeConfig": {"entity_vocab_size": 5, "entity_emb_size": 8},
    "MPNetConfig": {},
    "RobertaConfig": {},
    "RobertaPreLayerNormConfig": {},
    "XLMRobertaConfig": {},
    "XLMRobertaXLConfig": {},
    "XmodConfig": {"languages": ["en_XX"], "default_language": "en_XX"},
}
FROM_THE_START = {
    "AlbertConfig": {"embedding_size": 8},
    "BertConfig": {},
    "DistilBertConfig": {"dim": 32, "hidden_dim": 32, "n_heads": 2, "n_layers": 1},
    "ElectraConfig": {"embedding_size": 8},
    "ErnieConfig": {},
    "ModernBertConfig": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "NystromformerConfig": {"num_landmarks": 2, "segment_means_seq_len": 2},
    "RoFormerConfig": {"embedding_size": 8},
}


def encoder(name: str, more: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, name)(**ENCODER | {"max_position_embeddings": 40} | more)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("name", BEHIND_PADDING)
def test_encoders_read_as_many_tokens_as_they_have_positions_behind_their_padding(name):
    model = encoder(name, BEHIND_PADDING[name])
    assert max_pair_length(model, 512) == 38 and max_pair_length(model, 30) == 30
    with torch.no_grad():
        assert model(input_ids=torch.full((2, 38), 7), attention_mask=torch.ones(2, 38, dtype=torch.long)).logits.isfinite().all()
        with pytest.raises((IndexError, RuntimeError), match="out of"):
            model(input_ids=torch.full((2, 39), 7), attention_mask=torch.ones(2, 39, dtype=torch.long))


@pytest.mark.parametrize("name", FROM_THE_START)
def test_other_encoders_read_as_many_tokens_as_they_say(name):
    model = encoder(name, FROM_THE_START[name])
    assert max_pair_length(model, 512) == 40
    with torch.no_grad():
        assert model(input_ids=torch.full((2, 40), 7), attention_mask=torch.ones(2, 40, dtype=torch.long)).logits.isfinite().all()


def test_encoders_without_an_end_read_max_length():
    """XLNet says -1, T5 nothing."""
    sizes = {"vocab_size": 97, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32, "num_labels": 1}
    xlnet = AutoModelForSequenceClassification.from_config(transformers.XLNetConfig(**sizes)).eval()
    assert max_positions(xlnet) is None and max_pair_length(xlnet, 600) == 600


def long_rope(factor: float = 4.0) -> Phi3ForCausalLM:
    """Phi-3 of 128k in little: up to 16 tokens the short factors, above them the long ones, for all of a batch."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [factor] * 4, "original_max_position_embeddings": 16}
    torch.manual_seed(0)
    sizes = SIZES | {"pad_token_id": 0, "max_position_embeddings": 64, "rope_parameters": {**rope, "rope_theta": 10000.0}}
    return Phi3ForCausalLM(Phi3Config(**sizes, original_max_position_embeddings=16)).eval()


def difference_beside(model, width: int) -> float:
    """By how much the states of 8 tokens differ when a line of ``width`` tokens stands beside them."""
    ids = torch.zeros(2, width, dtype=torch.long)
    ids[0, :8], ids[1] = torch.arange(2, 10), torch.arange(width).remainder(90) + 2
    mask = (ids > 0).long()
    with torch.no_grad():
        alone = model.get_decoder()(input_ids=ids[:1, :8]).last_hidden_state
        together = model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    return (together[:1, :8] - alone).abs().max().item()


def test_a_length_at_which_lines_change_each_others_positions_is_refused():
    model, name = long_rope(), from_folder("phi")
    assert difference_beside(model, 16) < 1e-5 < 1e-3 < difference_beside(model, 17)
    check_positions(model, 16, name)
    with pytest.raises(UserError, match="^max_length: 17, but above 16 tokens model phi takes other rotary frequencies .* lower it to 16$"):
        check_positions(model, 17, name)


def test_dynamic_scaling_ends_where_it_begins_to_scale():
    """Llama reads on above max_position_embeddings with frequencies of the longest line in the batch."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=16, rope_parameters=rope)).eval()
    assert difference_beside(model, 16) < 1e-5 < 1e-4 < difference_beside(model, 40)
    with pytest.raises(UserError, match="max_length: 17, but model llama reads 16 tokens"):
        check_positions(model, 17, from_folder("llama"))
    check_positions(model, 16, from_folder("llama"))
    assert max_steady_positions(model) == 16


def test_positions_that_depend_on_no_other_line_have_no_such_limit(model):
    """Also where frequencies are scaled for good (YaRN, Llama 3), or by layer type as in Gemma 3."""
    assert max_steady_positions(model) is None
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
    scaled = transformers.LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=64, rope_parameters=yarn)).eval()
    assert difference_beside(scaled, 40) < 1e-5 and max_steady_positions(scaled) is None
    text = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SIZES, head_dim=8))
    assert max_steady_positions(text) is None


def test_verifiers_cut_pairs_where_their_positions_become_unsteady():
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 16}
    rope |= {"short_mscale": 1.0, "long_mscale": 1.2, "rope_theta": 10000.0}
    sizes = SIZES | {"max_position_embeddings": 64, "rope_parameters": rope, "num_local_experts": 2}
    policy = PhimoeForCausalLM(PhimoeConfig(**sizes)).eval()
    assert max_pair_length(policy, 40) == 16 and max_pair_length(long_rope(), 40) == 16
