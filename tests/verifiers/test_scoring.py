"""One verifier: loading any classifier with one logit, and its scores."""

import pytest
import torch
from conftest import ROOT, params_as, scoring_params
from tiny_models import SIZES
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from anchora.model.params import PolicyParams
from anchora.model.pins import from_folder
from anchora.run.errors import UserError
from anchora.verifiers.ensemble import RewardModel, score_ensemble
from anchora.verifiers.pairs import encode_pair
from anchora.verifiers.scoring import load_verifier, score_pairs

PROMPT = [{"role": "user", "content": "Mia has 3 eggs. How many?"}]


BASE = ROOT / "models" / "base"


def test_padding_changes_no_score(encoder):
    model, tokenizer = encoder
    pairs = [(PROMPT, "3"), (PROMPT, "it is 3 eggs, as the text says"), (PROMPT, "")]
    together = score_pairs(model, tokenizer, pairs, scoring_params(scoring_batch_tokens=10_000))
    alone = [score_pairs(model, tokenizer, [pair], scoring_params(scoring_batch_tokens=1))[0] for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-5)


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("template", [TEMPLATE, None])
@pytest.mark.parametrize("config_pad", ["pad", "eos", None])
@pytest.mark.parametrize("tokenizer_pad", ["pad", "eos", None])
def test_a_brought_decoder_scores_as_it_does_by_itself(tmp_path, template, config_pad, tokenizer_pad):
    """One conversation after another, without padding: at its last token but for those that its configuration pads with.

    Where that one has no pad token, at the very last, which here is the EOS: no padding may be taken for it, nor it for padding.
    """
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "policy")
    ids = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id, None: None}
    tokenizer.pad_token = {"pad": tokenizer.pad_token, "eos": tokenizer.eos_token, None: None}[tokenizer_pad]
    tokenizer.chat_template = template
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": len(tokenizer), "num_labels": 1, "initializer_range": 0.5}
    model = LlamaForSequenceClassification(LlamaConfig(**sizes, pad_token_id=ids[config_pad])).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [(PROMPT, "3"), (PROMPT, "4 or 5"), (PROMPT, "7 and 8 are 15")]
    (scores,) = score_ensemble([RewardModel(from_folder(tmp_path))], pairs, scoring_params(max_length=64))
    with torch.no_grad():
        rows = [torch.tensor([encode_pair(tokenizer, *pair, 64, scoring_params().prompt_template)]) for pair in pairs]
        expected = [model(input_ids=row).logits.item() for row in rows]
    assert rows[0][0, -1] == tokenizer.eos_token_id
    assert scores == pytest.approx(expected, abs=1e-4) and len({round(score, 2) for score in expected}) == 3


def test_a_classifier_with_two_logits_is_refused(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "encoder")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=2
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="one logit, this classifier has 2"):
        load_verifier(from_folder(tmp_path), scoring_params())


def test_weights_are_never_read_from_a_pickle(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "encoder")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=1
    )
    torch.save(BertForSequenceClassification(config).state_dict(), tmp_path / "pytorch_model.bin")
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_verifier(from_folder(tmp_path), scoring_params())


def test_a_brought_verifier_needs_its_head():
    """Without num_labels the head must be in the files: transformers would draw one at random."""
    with pytest.raises(UserError, match="models/base/encoder"):
        load_verifier(from_folder(BASE / "encoder"), params_as(PolicyParams))
