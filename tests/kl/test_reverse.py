"""The reverse KL from a reference, against both models' whole logits."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import PAIRS, SIZES
from transformers import LlamaConfig, LlamaForCausalLM

from anchora.evaluation.drift import drift_figures
from anchora.kl.reverse import ReverseKL, policy_states, reverse_kl
from anchora.run.errors import UserError

TOKENIZER = SimpleNamespace(get_vocab=lambda: {"a": 0}, pad_token_id=0)
BUDGET = 64  # tokens in a batch


def llama(rows: int = 97, seed: int = 0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(SIZES | {"vocab_size": rows}))).eval()


def kl_between(policy, reference) -> ReverseKL:
    return reverse_kl(policy_states(policy, TOKENIZER, TOKENIZER, PAIRS, BUDGET), reference, TOKENIZER, PAIRS, BUDGET)


@pytest.mark.parametrize("rows", [(97, 97), (97, 128), (128, 97)])
def test_the_reverse_kl_is_over_the_rows_that_both_have(rows):
    """By hand from the whole logits; 31 rows of padding more, on either side, are another width of the same vocabulary."""
    policy, reference = llama(rows[0]), llama(rows[1], seed=1)
    expected, k3, tokens = [], 0.0, 0
    for prompt, response in PAIRS:
        ids, places = torch.tensor([prompt + response]), slice(len(prompt) - 1, len(prompt) + len(response) - 1)
        with torch.no_grad():
            p, q = (model(ids).logits[0, places, :97].log_softmax(-1).double() for model in (policy, reference))
        expected.append((p.exp() * (p - q)).sum().item())
        ratio = (q - p).gather(1, torch.tensor(response)[:, None])
        k3, tokens = k3 + (ratio.exp() - 1 - ratio).sum().item(), tokens + len(response)
    kl = kl_between(policy, reference)
    assert kl.sequence == pytest.approx(np.array(expected), abs=2e-6)
    assert kl.k3 / kl.tokens == pytest.approx(k3 / tokens, abs=2e-6)
    figures = drift_figures(kl, seed=0)
    assert figures["kl_sequence"] == pytest.approx(np.mean(expected), abs=2e-6)
    assert figures["kl_per_token"] == pytest.approx(k3 / tokens, abs=2e-6)


@pytest.mark.parametrize("capped", [0, 1])
def test_a_model_that_caps_its_logits_has_no_reverse_kl_but_an_error(capped):
    sides = [llama(), llama(seed=1)]
    forward = sides[capped].forward

    def capping(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = 0.01 * torch.tanh(output.logits / 0.01)
        return output

    sides[capped].forward = capping
    with pytest.raises(UserError, match="not supported"):
        kl_between(*sides)


def test_the_policy_leaves_memory_before_its_reference_comes():
    """All that stays of it are its output layer and the states of its samples: 3, 2 and 5 tokens of 32 numbers."""
    policy = llama()
    gone = weakref.ref(policy.get_decoder().layers[0].mlp.gate_proj.weight)
    states = policy_states(policy, TOKENIZER, TOKENIZER, PAIRS, BUDGET)
    del policy
    gc.collect()
    assert gone() is None
    assert sum(len(part) for part in states.of_batch.values()) == sum(len(response) for _, response in PAIRS)
    assert states.head.weight.shape == (97, 32)


def test_two_vocabularies_have_no_reverse_kl_and_no_pass():
    """The models are not looked at: one that caps its logits can be compared with another vocabulary's by all else."""
    other = SimpleNamespace(get_vocab=lambda: {"b": 0}, pad_token_id=0)
    states = policy_states(None, TOKENIZER, other, PAIRS, BUDGET)
    assert states is None and reverse_kl(states, None, other, PAIRS, BUDGET) is None
    assert drift_figures(None, seed=0) == {}
