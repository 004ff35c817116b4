"""The ensemble: who its members are, and their scores side by side."""

import pytest
import torch
from conftest import ROOT, params_as, scoring_params
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from anchora.model.pins import from_folder
from anchora.run.errors import UserError
from anchora.verifiers.ensemble import RewardModel, ensemble_members, score_ensemble
from anchora.verifiers.params import VerifiersParams

PROMPT = [{"role": "user", "content": "Mia has 3 eggs. How many?"}]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_any_sequence_classifier_with_one_logit_can_join(tmp_path, kind):
    torch.manual_seed(0)
    base = ROOT / "models" / "base" / ("encoder" if kind == "bert" else "policy")
    tokenizer = AutoTokenizer.from_pretrained(base)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_labels": 1,
    }
    model = BertForSequenceClassification(BertConfig(**sizes)) if kind == "bert" else LlamaForSequenceClassification(LlamaConfig(**sizes))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [(PROMPT, "3"), (PROMPT, "4 or 5"), (PROMPT, "3")]
    (scores,) = score_ensemble([RewardModel(from_folder(tmp_path))], pairs, scoring_params(max_length=64))
    assert scores[0] == scores[2] != scores[1]


def test_an_empty_ensemble_is_refused(tmp_path):
    (tmp_path / "verifiers").mkdir()
    (tmp_path / "verifiers" / "brought.json").write_text("[]")
    (tmp_path / "verifiers" / "judge.json").write_text("{}")
    with pytest.raises(UserError, match="all empty"):
        ensemble_members(str(tmp_path), params_as(VerifiersParams, verifiers=[]))
