"""Log-probs of responses against the models' own logits, on four architectures."""

import math

import pytest
import torch
from tiny_models import PAIRS

from anchora.model import logps
from anchora.model.batches import collate
from anchora.model.capabilities import can_share_prompts
from anchora.model.logps import response_logps, sequence_logps, token_logps


def test_sequence_logps_are_those_of_the_models_logits(model, monkeypatch):
    monkeypatch.setattr(logps, "CHUNK_LOGITS", 97 * 4)
    monkeypatch.setattr(logps, "CHUNK_TOKENS", 1)  # several chunks
    computed = [values for (values,) in response_logps(model, PAIRS, 0, 64)]
    for (prompt, response), ours in zip(PAIRS, computed, strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        expected = [logits[len(prompt) + i - 1, token].item() for i, token in enumerate(response)]
        assert ours == pytest.approx(expected, abs=1e-5)


def test_chunks_do_not_change_the_gradient(model, monkeypatch):
    gradients = []
    for chunk in (97 * 2, 2**24):
        monkeypatch.setattr(logps, "CHUNK_LOGITS", chunk)
        monkeypatch.setattr(logps, "CHUNK_TOKENS", 1)
        model.zero_grad()
        sequence_logps(model, collate(PAIRS, 0, "cpu")).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_the_gradient_of_a_log_prob_takes_the_place_of_the_logits():
    """d log p(t) / d logits = onehot(t) - softmax: at logits 0, ln 3 and target 0 that is 3/4, -3/4. A second pass is refused."""
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64, requires_grad=True) + 0  # no leaf
    ours = token_logps(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(ours, logits, torch.tensor([2.0], dtype=torch.float64), retain_graph=True)
    assert ours.item() == pytest.approx(math.log(0.25)) and gradient.tolist() == [pytest.approx([1.5, -1.5])]
    assert gradient.data_ptr() == logits.data_ptr()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(ours, logits, torch.ones(1, dtype=torch.float64))


def test_the_gradient_of_log_probs_is_that_of_autograd():
    torch.manual_seed(0)
    logits, targets, weights = torch.randn(50, 97, dtype=torch.float64), torch.randint(97, (50,)), torch.randn(50, dtype=torch.float64)
    results = []
    for function in (token_logps, lambda scores, at: scores.log_softmax(-1).gather(-1, at[:, None]).squeeze(-1)):
        scores = logits.clone().requires_grad_()
        values = function(scores + 0, targets)
        (values * weights).sum().backward()
        results.append((values.detach(), scores.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("vocabulary, tokens", [(97, [600]), (16384, [512, 88]), (128256, [256, 256, 88])])
def test_a_chunk_holds_32_mb_of_logits_or_256_tokens(vocabulary, tokens):
    """2^23 logits are 512 tokens of 16,384; of 128,256 they would be 65, which took 1.5 times as long as 261 on two cores."""
    chunks: list[int] = []

    def first(logits: torch.Tensor) -> torch.Tensor:
        chunks.append(len(logits))
        return logits[:, 0]

    head = torch.nn.Linear(2, vocabulary, bias=False)
    with torch.no_grad():
        assert logps.map_logits(head, torch.ones(600, 2), first).shape == (600,)
    assert chunks == tokens


def test_a_shared_prompt_gives_the_log_probs_of_separate_rows(model):
    rows = [([5, 6, 7], [8, 9, 2], [10]), ([11, 12], [13, 2], [14, 15, 16, 17]), ([3], [4, 2])]
    assert can_share_prompts(model, 0, 16)
    together, apart = (response_logps(model, rows, 0, 64, shared) for shared in (True, False))
    for ours, theirs in zip(together, apart, strict=True):
        for first, second in zip(ours, theirs, strict=True):
            assert first == pytest.approx(second, abs=1e-5)
