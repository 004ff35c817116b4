"""Agreement of responses, by hand."""

import random

import pytest

from anchora.uncertainty.agreement import agreement, mean_disagreement, sample_disagreement

SAMPLES = ["It is 7.", "3 + 4 = 7", "7.0", "8", "no idea", "about 1,000"]


def test_agreement_is_of_answers_where_both_have_one_and_else_of_words():
    assert agreement("it is 7", "#### 7.0", "last") == 1
    assert agreement("it is 7", "it is 8", "last") == 0
    assert 0 < agreement("a red kite", "a blue kite", "last") < 1
    not_five = "The answer is 5, not 6", "The answer is 5, not 7"
    assert (agreement(*not_five, "last"), agreement(*not_five, "anchored")) == (0, 1)
    assert mean_disagreement(["1", "1", "2"], "last") == pytest.approx(2 / 3)
    assert mean_disagreement(["1"], "last") == 0


@pytest.mark.parametrize("reading", ["last", "anchored", "math"])
def test_blank_responses_agree_with_none(reading):
    """Thoughts without an end leave them: they would be a policy that is sure."""
    assert agreement("", "", reading) == agreement(" ", "\n", reading) == agreement("", "It is 7.", reading) == 0
    assert sample_disagreement("", ["", "It is 7."], reading) == mean_disagreement(["", ""], reading) == 1


def test_sample_disagreement_by_hand():
    """Of six samples three give 7, two give other numbers, and one none: its words "no idea" share none with "It is 7."."""
    assert sample_disagreement("It is 7.", SAMPLES, "last") == pytest.approx(1 - 3 / 6)
    assert sample_disagreement("It is 7.", ["seven 7"], "last") == 0 and sample_disagreement("It is 7.", ["8"] * 3, "last") == 1


def test_texts_without_answers_agree_by_their_words():
    """difflib's ratio of three words and three, two of them in common: 2 * 2 / 6; then one minus the mean of 1 and 2/3."""
    assert sample_disagreement("a red kite", ["a red kite", "a blue kite"], "last") == pytest.approx(1 - (1 + 2 / 3) / 2)


def test_the_reading_says_what_the_answer_is():
    """All say that the answer is 5; by the last number 6 and 7 differ."""
    samples = ["The answer is 5, not 7", "The answer is 5"]
    assert sample_disagreement("The answer is 5, not 6", samples, "anchored") == 0
    assert sample_disagreement("The answer is 5, not 6", samples, "last") == 1


def test_the_order_of_the_samples_does_not_matter():
    """To the bit: the uncertainty of equal samples is then a tie."""
    samples, generator = [*SAMPLES, "a b c d e f g", "g it is c 7", "it b is"], random.Random(0)
    values = {sample_disagreement("a it is", generator.sample(samples, len(samples)), "anchored") for _ in range(50)}
    assert len(values) == 1
