"""What update_policy takes of a buffer."""

import pytest
from buffer_rows import anchor, small_rows
from conftest import params_as

import update_policy
from anchora.run.errors import UserError
from anchora.update.params import UpdatePolicyParams

PARAMS = params_as(UpdatePolicyParams)


def test_an_anchor_whose_prompt_is_a_case_rests():
    """It may hold the very response that the case rejects: DPO pushes that down."""
    buffer = small_rows()
    buffer.anchors.append(anchor(buffer.cases[0]["id"], held_out=False))
    trained, held_out = update_policy.split_anchors(buffer, PARAMS)
    assert [row["id"] for row in trained] == ["a" * 16] and [row["id"] for row in held_out] == ["b" * 16]


def test_a_buffer_without_anchors_to_train_on_is_refused():
    buffer = small_rows()
    buffer.anchors[:] = [anchor(buffer.cases[0]["id"], held_out=False), anchor("b" * 16, held_out=True)]
    with pytest.raises(UserError, match="no anchor to train on"):
        update_policy.split_anchors(buffer, PARAMS)
    assert update_policy.split_anchors(buffer, params_as(UpdatePolicyParams, anchor_weight=0.0))[0] == []
