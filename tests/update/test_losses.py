"""The terms of the update against numbers derived by hand."""

import math

import pytest
import torch

from anchora.update.losses import beta_scales, case_weights, dpo_losses, gate, pair_betas


def test_dpo_loss_by_hand():
    """Chosen stays where the reference has it, rejected loses ln 3:

    margin = (-2 - -2) - (-4 - (-4 + ln 3)) = ln 3; sigmoid(1 * ln 3) = 3 / 4; loss = ln(4 / 3). With beta 2:
    sigmoid(2 ln 3) = 9 / 10; loss = ln(10 / 9).
    """
    chosen = torch.tensor([-2.0, -2.0])
    rejected, reference_rejected = torch.tensor([-4.0, -4.0]), torch.tensor([-4.0, -4.0]) + math.log(3)
    losses, margins = dpo_losses(chosen, rejected, chosen, reference_rejected, torch.tensor([1.0, 2.0]))
    assert margins.tolist() == pytest.approx([math.log(3)] * 2)
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(10 / 9)])


def test_dpo_loss_at_the_reference_is_ln_2():
    logps = torch.tensor([-5.0, -7.0])
    losses, _ = dpo_losses(logps, logps - 1, logps, logps - 1, torch.tensor([0.1, 3.0]))
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)


def test_bounded_loss_by_hand():
    """Margin ln 3: 2 sigmoid(-ln 3) = 2 / 4; with beta 2: 2 sigmoid(-2 ln 3) = 2 / 10. The swapped pair has the rest to 2."""
    margin = torch.tensor([math.log(3)] * 2)
    zero, beta = torch.zeros(2), torch.tensor([1.0, 2.0])
    losses, _ = dpo_losses(margin, zero, zero, zero, beta, "bounded")
    swapped, _ = dpo_losses(zero, margin, zero, zero, beta, "bounded")
    assert losses.tolist() == pytest.approx([0.5, 0.2])
    assert (losses + swapped).tolist() == pytest.approx([2, 2])


def test_swapped_pairs_hold_the_logistic_loss_back_but_not_the_bounded_one():
    """Three pairs of one margin m, one of them swapped, beta 8.

    The logistic mean is least where sigmoid(8 m) = 2 / 3, at m = ln(2) / 8. The bounded mean is
    (2 * 2 sigmoid(-8 m) + 2 sigmoid(8 m)) / 3 = (2 + 2 sigmoid(-8 m)) / 3, which falls with m for good.
    """
    margin = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    zero = torch.zeros_like(margin)
    means = {}
    for loss_form in ("logistic", "bounded"):
        right, wrong = (dpo_losses(sign * margin, zero, zero, zero, 8.0, loss_form)[0] for sign in (1, -1))
        means[loss_form] = (2 * right + wrong) / 3
    assert margin[means["logistic"].argmin()].item() == pytest.approx(math.log(2) / 8, abs=1e-3)
    assert (means["bounded"].diff() <= 0).all()


@pytest.mark.parametrize("loss_form", ["logistic", "bounded"])
def test_both_losses_start_with_the_same_slope(loss_form):
    """-beta / 2 at margin 0."""
    chosen = torch.zeros(2, requires_grad=True)
    dpo_losses(chosen, torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 8.0]), loss_form)[0].sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.5, -4.0])


def test_inverse_scaling_gives_every_pair_the_same_first_gradient():
    """d/dm of s * -log sigmoid(beta m) at m = 0 is -s * beta / 2; with s = 1.15 / beta that is -0.575 for all."""
    beta = torch.tensor([0.3, 1.15, 2.0])
    chosen = torch.zeros(3, requires_grad=True)
    losses, _ = dpo_losses(chosen, torch.zeros(3), torch.zeros(3), torch.zeros(3), beta)
    (beta_scales(beta, 1.15) * losses).sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.575] * 3)


def test_betas_grow_with_the_rank():
    rank = torch.tensor([0.0, 0.5, 1.0])
    assert pair_betas(gate(rank, "pair", 0), 0.3, 2.3).tolist() == pytest.approx([0.3, 1.3, 2.3])


def test_no_gate_is_the_midpoint_and_weight_1_for_every_pair():
    ungated = gate(torch.tensor([0.9, 0.6, 0.3]), "none", 0)
    assert pair_betas(ungated, 0.3, 2.3).tolist() == pytest.approx([1.3] * 3)
    assert case_weights(ungated, "calibrated").tolist() == [1, 1, 1]


def test_a_shuffled_gate_has_the_same_ranks_for_other_pairs():
    rank = torch.linspace(0, 1, 50)
    shuffled = gate(rank, "shuffled", 7)
    assert not torch.equal(rank, shuffled)
    assert torch.equal(rank, shuffled.sort().values)
    assert torch.equal(shuffled, gate(rank, "shuffled", 7))


def test_shuffled_betas_and_weights_go_to_the_same_pairs():
    """Beta rises and weight falls with the rank, so that both shuffled alike still add up to the same number."""
    rank = torch.linspace(0, 1, 50)
    assert torch.allclose(gate(rank, "shuffled", 7) + gate(1 - rank, "shuffled", 7), torch.ones(50))


def test_case_weights_by_hand():
    """Probabilities of .9, .6 and .3, mean .6: weights 1.5, 1 and .5."""
    certainty = torch.tensor([0.9, 0.6, 0.3])
    assert case_weights(certainty, "calibrated").tolist() == pytest.approx([1.5, 1.0, 0.5])
    assert case_weights(certainty, "none").tolist() == [1, 1, 1]
    assert case_weights(torch.zeros(3), "calibrated").tolist() == [1, 1, 1]
