"""KL estimates against numbers derived by hand, and against the exact KL over a vocabulary."""

import math

import pytest
import torch

from anchora.kl.estimators import full_kl, kl_estimates


def test_kl_estimates_by_hand():
    """At log-ratio ln 2: k1 = 0.6931, k2 = 0.2402, k3 = 1/2 - 1 + ln 2 = 0.1931."""
    estimates = kl_estimates(torch.tensor([math.log(2)]))
    found = [estimates[name].item() for name in ("k1", "k2", "k3")]
    assert found == pytest.approx([math.log(2), math.log(2) ** 2 / 2, math.log(2) - 0.5])


def test_kl_estimates_agree_with_the_exact_kl():
    """k1 and k3 are unbiased: their exact expectation under p over a small vocabulary is KL(p || q)."""
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = (torch.randn(1, 12, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    exact = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum").item()
    assert full_kl(log_p, log_q).item() == pytest.approx(exact)
    estimates = kl_estimates(log_p - log_q)
    for name in ("k1", "k3"):
        assert (log_p.exp() * estimates[name]).sum().item() == pytest.approx(exact)


def test_kl_estimates_agree_with_the_exact_kl_over_the_vocabulary():
    """200,000 samples of p over 50 tokens: k1 and k3 within 4 standard errors of KL(p || q); k3 never below 0."""
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = (torch.randn(1, 50, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    exact = full_kl(log_p, log_q).item()
    samples = torch.multinomial(log_p.exp()[0], 200_000, replacement=True, generator=generator)
    estimates = kl_estimates((log_p - log_q)[0, samples])
    for name in ("k1", "k3"):
        error = estimates[name].std().item() / len(samples) ** 0.5
        assert estimates[name].mean().item() == pytest.approx(exact, abs=4 * error)
    assert estimates["k3"].min() >= 0 and estimates["k3"].std() < estimates["k1"].std()
