"""The choice of a token: inverse distribution functions by hand, nuclei, entropies, and frequencies under a chi-square test."""

import math

import pytest
import torch
from scipy.stats import chisquare
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from anchora.sampling import choice
from anchora.sampling.choice import choose_tokens, first_above

ONE_LESS = 1 - 2**-53  # the largest number that torch.rand gives
LEVEL = 1e-4  # of each chi-square test: the chance that right code fails, were the seed not fixed


def chosen(probabilities, uniforms, **settings) -> list[int]:
    logits = torch.tensor([probabilities]).log().repeat(len(uniforms), 1)
    return choose_tokens(logits, torch.tensor(uniforms, dtype=torch.float64), **settings)[0].tolist()


def test_a_token_is_where_the_running_sum_first_exceeds_the_uniform_number():
    """Of 1/2, 1/4, 1/4 the running sums are .5, .75 and 1; a number equal to a sum belongs to the token behind it."""
    assert chosen([0.5, 0.25, 0.25], [0.0, 0.49, 0.5, 0.74, 0.75, 0.99, ONE_LESS]) == [0, 0, 1, 1, 2, 2, 2]


def test_a_token_of_probability_0_is_never_chosen():
    assert chosen([0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.5, ONE_LESS]) == [1, 3, 3]
    assert chosen([0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.5, ONE_LESS], top_p=0.99) == [1, 3, 3]
    assert chosen([0.0] * 600 + [1.0] + [0.0] * 600, [0.0, 0.5, ONE_LESS]) == [600] * 3  # blocks of zeros before and behind


def test_a_target_that_rounding_brought_up_to_the_sum_finds_the_last_token_that_adds_to_it():
    sums = torch.tensor([[1.0, 3.0, 3.0]], dtype=torch.float64)
    assert [first_above(sums, torch.tensor([[target]], dtype=torch.float64)).item() for target in (0.0, 1.0, 3.0, 3.1)] == [0, 1, 1, 1]


def test_tokens_far_into_a_vocabulary_are_found_by_their_block():
    """1,000 equal words: u takes word floor(1000 u), also across the edges of blocks of 256."""
    words = [0, 1, 255, 256, 257, 511, 512, 767, 768, 999]
    assert chosen([0.001] * 1000, [(word + 0.5) / 1000 for word in words]) == words


def test_temperature_raises_probabilities_to_a_power():
    """At temperature 1/2 probabilities of 2/3 and 1/3 become 4/5 and 1/5."""
    assert chosen([2 / 3, 1 / 3], [0.79, 0.81], temperature=0.5) == [0, 1]
    assert chosen([2 / 3, 1 / 3], [0.66, 0.67]) == [0, 1]


@pytest.mark.parametrize(
    ("top_p", "cuts"),
    [
        (0.49, {0.0: 1, ONE_LESS: 1}),  # .5 alone holds it
        (0.51, {0.0: 1, 0.6249: 1, 0.626: 2, ONE_LESS: 2}),  # .5 and .3, of which .5 is 5/8
        (0.79, {0.0: 1, 0.6249: 1, 0.626: 2, ONE_LESS: 2}),
        (0.81, {0.5: 1, 0.51: 2, 0.79: 2, 0.81: 0, ONE_LESS: 0}),  # .5, .3 and .2, which is all of it: the likeliest come first
    ],
)
def test_top_p_keeps_exactly_the_nucleus(top_p, cuts):
    assert chosen([0.2, 0.5, 0.3], list(cuts), top_p=top_p) == list(cuts.values())


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99, 0.99999])
def test_nuclei_are_those_of_transformers(top_p, monkeypatch):
    """On distributions from sharp to flat: every token of the nucleus is drawn by some number, and no other by any."""
    torch.manual_seed(0)
    monkeypatch.setattr(choice, "LIKELIEST", 2)  # so that the search has to widen
    for sharpness in (0.1, 1.0, 8.0):
        logits = sharpness * torch.randn(1, 50)
        kept = TopPLogitsWarper(top_p)(None, logits).softmax(-1)[0].double()
        numbers = torch.arange(20000, dtype=torch.float64) / 20000
        tokens, _ = choose_tokens(logits.repeat(len(numbers), 1), numbers, top_p=top_p)
        share = torch.bincount(tokens, minlength=50) / len(numbers)
        assert (share - kept).abs().max() < 1e-4
        assert (share[kept == 0] == 0).all()


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_frequencies_are_those_of_the_warped_distribution(temperature, top_p):
    """100,000 draws from 7 words, by transformers' warpers and a chi-square test at level 1e-4."""
    torch.manual_seed(0)
    logits, draws = torch.randn(1, 7) * 0.8, 100_000
    expected = TemperatureLogitsWarper(temperature)(None, logits) if temperature != 1 else logits
    expected = (TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected).double().softmax(-1)[0]
    tokens, _ = choose_tokens(logits.repeat(draws, 1), torch.rand(draws, dtype=torch.float64), temperature, top_p)
    counts = torch.bincount(tokens, minlength=7)
    assert (counts[expected == 0] == 0).all() and (expected > 0).sum() > 2
    assert chisquare(counts[expected > 0], draws * expected[expected > 0]).pvalue > LEVEL


def test_the_test_of_frequencies_sees_another_temperature():
    torch.manual_seed(0)
    logits, draws = torch.randn(1, 7) * 1.5, 100_000
    tokens, _ = choose_tokens(logits.repeat(draws, 1), torch.rand(draws, dtype=torch.float64), temperature=1.05)
    assert chisquare(torch.bincount(tokens, minlength=7), draws * logits.double().softmax(-1)[0]).pvalue < LEVEL


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [7, 256, 1000])
def test_entropies_are_of_the_raw_distribution_whatever_is_drawn(dtype, vocabulary, monkeypatch):
    """In chunks of three rows; bfloat16 logits are taken in float32."""
    monkeypatch.setattr(choice, "CHUNK_LOGITS", 3 * vocabulary)
    torch.manual_seed(0)
    logits = (torch.randn(10, vocabulary) * 3).to(dtype)
    logits[0, 1:] = -math.inf  # one word is certain: entropy 0
    expected = torch.distributions.Categorical(logits=logits.double()).entropy()
    for settings in ({"uniforms": None}, {"uniforms": torch.rand(10, dtype=torch.float64), "temperature": 0.5, "top_p": 0.5}):
        tokens, entropies = choose_tokens(logits.clone(), **settings)
        assert entropies.dtype == torch.float32 and torch.allclose(entropies.double(), expected, atol=1e-5)
        assert tokens[0] == 0
    assert torch.equal(choose_tokens(logits.clone(), None)[0], logits.argmax(-1))


def test_of_equal_logits_the_first_is_the_greedy_one():
    logits = torch.zeros(2, 300)
    logits[1, [7, 290]] = 1.0
    assert choose_tokens(logits, None)[0].tolist() == [0, 7]


def test_logits_that_are_no_numbers_show_in_the_entropy():
    logits = torch.zeros(3, 5)
    logits[1, 2], logits[2, 3] = math.nan, math.inf
    assert choose_tokens(logits, torch.full((3,), 0.5, dtype=torch.float64))[1].isnan().tolist() == [False, True, True]
