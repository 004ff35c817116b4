"""Agreement of responses that are sampled again."""

import pytest

from anchora.uncertainty.regenerate import agreement, mean_disagreement


def test_agreement_by_number_and_by_words():
    assert agreement("it is 7", "#### 7.0", "last") == 1
    assert agreement("it is 7", "it is 8", "last") == 0
    assert 0 < agreement("a red kite", "a blue kite", "last") < 1
    not_five = ["The answer is 4. It was not 5", "The answer is 5. It was not 5"]
    assert (agreement(*not_five, "last"), agreement(*not_five, "anchored")) == (1, 0)
    assert mean_disagreement(["1", "1", "2"], "last") == pytest.approx(2 / 3)
    assert mean_disagreement(["1"], "last") == 0
