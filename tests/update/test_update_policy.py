"""What update_policy takes of a buffer."""

import pytest
import torch
from buffer_rows import anchor, small_rows
from conftest import params_as

import update_policy
from anchora.run.errors import UserError
from anchora.update.pairs import weigh
from anchora.update.params import UpdatePolicyParams


def test_an_anchor_whose_prompt_is_a_case_rests():
    """It may hold the very response that the case rejects: DPO pushes that down. A round in which all rest trains on none."""
    buffer = small_rows()
    buffer.anchors.append(anchor(buffer.cases[0]["id"], held_out=False))
    trained, held_out = update_policy.split_anchors(buffer)
    assert [row["id"] for row in trained] == ["a" * 16] and [row["id"] for row in held_out] == ["b" * 16]
    buffer.anchors[:] = [anchor(buffer.cases[0]["id"], held_out=False), anchor("b" * 16, held_out=True)]
    assert update_policy.split_anchors(buffer)[0] == []


def test_a_buffer_without_anchors_to_measure_on_is_refused():
    buffer = small_rows()
    buffer.anchors[:] = [anchor("a" * 16, held_out=False)]
    with pytest.raises(UserError, match="no anchor to measure the KL on"):
        update_policy.split_anchors(buffer)


@pytest.mark.parametrize(("anchor_weight", "anchors"), [(1.0, 0), (0.0, 0), (1.0, 2)])
def test_a_step_draws_as_many_anchors_as_pairs_where_there_are_any_that_weigh(anchor_weight, anchors):
    params = params_as(UpdatePolicyParams, anchor_weight=anchor_weight)
    buffer = small_rows()
    trained = [anchor(letter * 16, held_out=False) for letter in "ab"[:anchors]]
    data = update_policy.ReplayData(weigh(buffer.cases, params), trained, [], None)
    batch = update_policy.draw_batch(data, params, torch.Generator().manual_seed(0))
    assert len(batch.anchors) == (len(batch.pairs.cases) if anchors else 0)
