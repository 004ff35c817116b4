"""Batches: what a line holds, and how many rows a budget of tokens takes."""

import pytest
import torch

from anchora.model.batches import Batch, collate, row_size, token_budget_batches


def test_a_line_holds_a_prompt_and_one_response_or_all_of_them():
    """Responses are predicted from the position before; the second one, behind the first, from the prompt's last."""
    row = ([1, 2], [3], [4, 5])
    apart, together = collate([row], 0, "cpu"), collate([row], 0, "cpu", shared=True)
    assert isinstance(apart, Batch)
    assert apart.input_ids.tolist() == [[1, 2, 3, 0], [1, 2, 4, 5]]
    assert apart.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert apart.predicted_at.tolist() == [1, 5, 6]
    assert together.input_ids.tolist() == [[1, 2, 3, 4, 5]]
    assert together.position_ids.tolist() == [[0, 1, 2, 2, 3]]
    assert together.predicted_at.tolist() == [1, 1, 3]
    assert apart.targets.tolist() == together.targets.tolist() == [3, 4, 5]
    assert together.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert together.sums(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, 5.0]


def test_token_budget_keeps_every_row_once():
    lengths = [5, 50, 7, 7, 100, 1]
    batches = token_budget_batches([(1, length) for length in lengths], 60)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60 for batch in batches)


@pytest.mark.parametrize("shared", [True, False])
def test_the_token_budget_holds_for_what_a_batch_takes_with_its_padding(shared):
    """Chosen of 100 tokens and rejected of 5: two lines of 110 each where they stand apart, both as long as the longer one."""
    rows = [(list(range(10)), [1] * (100 - number), [2] * 5) for number in range(12)]
    for indices in token_budget_batches([row_size(row, shared) for row in rows], 700):
        assert collate([rows[index] for index in indices], 0, "cpu", shared).input_ids.numel() <= 700


@pytest.mark.parametrize("shared", [True, False])
def test_the_token_budget_holds_for_rows_of_unlike_numbers_of_responses(shared):
    """Three lines of 110 tokens and six of 60 are nine lines of 110: each kind by itself would fill one batch of 720."""
    prompt = list(range(10))
    rows = [(prompt, [1] * 100)] * 3 + [(prompt, [1] * 50, [2] * 50)] * 3 + [(prompt, *[[3] * length for length in range(1, 6)])] * 2
    batches = token_budget_batches([row_size(row, shared) for row in rows], 720)
    assert sorted(index for indices in batches for index in indices) == list(range(len(rows)))
    assert len(batches) < len(rows)
    for indices in batches:
        assert collate([rows[index] for index in indices], 0, "cpu", shared).input_ids.numel() <= 720
