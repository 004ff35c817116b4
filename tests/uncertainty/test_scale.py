"""The scale of uncertainty: parts, their combination, and what is read again of it, by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from conftest import params_as

from anchora.run.errors import UserError
from anchora.run.files import write_json
from anchora.uncertainty.agreement import sample_disagreement
from anchora.uncertainty.measure import Measured, measure
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.reliability import auroc
from anchora.uncertainty.scale import Scale, centred_scores, disagreement, ecdf, rank_log_odds, within_prompt_deviation


def test_ecdf_by_hand():
    assert ecdf([1, 2, 2, 4], [0, 1, 2, 3, 9]).tolist() == [0, 0.25, 0.75, 0.75, 1]


def test_rank_log_odds_by_hand():
    """Of 1, 2, 2, 4: below 0 are none, so that its rank is 1/2 of 5 and its odds 1 to 9; of 2 one and half of two, 2.5 of 5."""
    assert rank_log_odds([1, 2, 2, 4], [0, 2, 9]) == pytest.approx([-np.log(9), 0, np.log(9)])
    assert rank_log_odds([7, 7], [7]) == pytest.approx([0])  # what tells no prompts apart says nothing


def measured_on(prompts: int, samples: int, seed: int = 0) -> Measured:
    """Values at random: two verifiers that score on unlike scales."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(2, prompts, 1 + samples)) * np.array([1.0, 3.0])[:, None, None]
    return Measured(
        prompt_ids=[], greedy=[], samples=[], token_entropy=generator.normal(size=prompts),
        mc_dropout=generator.exponential(size=prompts), sample_agreement=generator.integers(0, 9, prompts) / 8,
        greedy_scores=scores[:, :, 0], sample_scores=scores[:, :, 1:],
        reward_models=2,
    )  # fmt: skip


def errors(measured: Measured) -> list[bool | None]:
    """Greedy responses are right the more seldom the larger their entropy, with noise; of every fifth it is not known."""
    noise = np.random.default_rng(1).normal(size=len(measured.token_entropy))
    right = (measured.token_entropy + noise < 0).tolist()
    return [None if number % 5 == 0 else is_right for number, is_right in enumerate(right)]


@pytest.mark.parametrize("known", [True, False])
def test_the_uncertainty_is_uniform_on_the_calibration_split(known):
    """By fitted weights exactly, and nearly so for weights fitted on all; without known answers by the plain mean."""
    measured = measured_on(prompts=200, samples=4)
    scale = Scale.from_calibration(measured, errors(measured) if known else [None] * 200)
    uniform = np.arange(1, 201) / 200
    assert np.sort(scale.combine_calibration(scale.parts)) == pytest.approx(uniform)
    assert np.abs(np.sort(scale.uncertainty(measured)) - uniform).max() < 0.03
    others = measured_on(prompts=2000, samples=4, seed=5)
    assert np.abs(np.sort(scale.uncertainty(others)) - np.arange(1, 2001) / 2000).max() < 0.1


def test_weights_are_fitted_on_which_answers_are_right():
    """Entropy alone tells errors here."""
    measured = measured_on(prompts=300, samples=4)
    scale = Scale.from_calibration(measured, errors(measured))
    assert scale.weights["token_entropy"][0] > 0.8 and all((values >= 0).all() for values in scale.weights.values())
    plain = Scale.from_calibration(measured, [None] * 300)
    assert all(values == pytest.approx(0.25) for values in plain.weights.values())


def test_by_the_plain_mean_new_and_calibration_prompts_are_combined_alike():
    """Shares 1/4, 1/2 and 3/4 have log-odds of -log 3, 0 and log 3; half of that with a part that tells nothing. Then ranks of three."""
    constant = np.ones(3)
    scale = Scale.from_parts({"token_entropy": np.array([1.0, 2.0, 3.0]), "mc_dropout": constant}, [None] * 3, np.ones(1), samples=4)
    assert scale.combined == pytest.approx(np.log([1 / 3, 1, 3]) / 2)
    assert scale.combine(scale.parts).tolist() == scale.combine_calibration(scale.parts).tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert scale.combine({"token_entropy": np.array([0.0, 2.5, 9.0]), "mc_dropout": constant}).tolist() == pytest.approx([0, 2 / 3, 1])


def test_errors_at_random_are_not_found_on_the_calibration_split():
    """60 prompts, errors that no part knows of: by weights fitted on them an AUROC above 1/2, by those without each fold none."""
    found: dict[str, list[float | None]] = {"fitted on them": [], "without their fold": []}
    for seed in range(30):
        measured = measured_on(prompts=60, samples=4, seed=seed)
        right = np.random.default_rng(100 + seed).random(60) < 0.5
        scale = Scale.from_calibration(measured, right.tolist())
        found["fitted on them"].append(auroc(~right, scale.combine(scale.parts)))
        found["without their fold"].append(auroc(~right, scale.combine_calibration(scale.parts)))
    in_sample, cross_fitted = (np.mean(areas) for areas in found.values())
    assert in_sample > 0.54 and cross_fitted < 0.51


def test_a_scale_is_read_as_it_was_written(tmp_path):
    measured = measured_on(prompts=100, samples=8)
    scale = Scale.from_calibration(measured, errors(measured))
    write_json(tmp_path / "scale.json", scale.as_json())
    read = Scale.load(tmp_path / "scale.json", samples=8)
    assert read.as_json() == scale.as_json() and read.samples == 8
    assert read.uncertainty(measured).tolist() == scale.uncertainty(measured).tolist()


def test_a_scale_of_an_earlier_version_is_refused(tmp_path):
    write_json(tmp_path / "uncertainty.json", {"parts": {"token_entropy": [1.0]}, "weights": {"token_entropy": 1.0}, "combined": [1.0]})
    with pytest.raises(UserError, match="uncertainty.json: an earlier version wrote it, without fitted weights"):
        Scale.load(tmp_path / "uncertainty.json", samples=8)


def test_agreement_is_of_as_many_samples_wherever_it_is_measured(policy):
    """Evaluation may draw more: those beyond samples_per_prompt have no say."""
    params = params_as(MeasureParams, samples_per_prompt=2, max_new_tokens=8, uncertainty_dropout_rate=0.0)
    rows = [{"prompt": [{"role": "user", "content": f"Work out {number} + 4."}]} for number in range(4)]
    measured = measure(*policy, rows, [], params, seed=1, samples=5)
    expected = [
        sample_disagreement(greedy.text, [sample.text for sample in samples[:2]], params.answer_reading)
        for greedy, samples in zip(measured.greedy, measured.samples, strict=True)
    ]
    assert measured.sample_agreement.tolist() == expected and len(measured.samples[0]) == 5


@pytest.mark.parametrize(("template", "blank"), [("Q: {prompt}\n<think>\n", True), ("Q: {prompt}\nA: ", False)])
def test_thoughts_without_an_end_are_counted_on_the_terminal(policy, capsys, template, blank):
    """Of 2 prompts with a greedy response and 3 samples each, by a policy that closes no thought."""
    params = params_as(MeasureParams, samples_per_prompt=3, max_new_tokens=8, uncertainty_dropout_rate=0.0, prompt_template=template)
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = None
    rows = [{"prompt": [{"role": "user", "content": f"Work out {number} + 4."}]} for number in range(2)]
    measured = measure(policy[0], tokenizer, rows, [], params, seed=1, samples=3)
    said = "8 of 8 responses (100.0%) are blank: their thought did not end; raise max_new_tokens (now 8)"
    assert (said in capsys.readouterr().out) == blank
    assert (measured.sample_agreement == 1).all() or not blank


def test_a_restricted_scale_is_that_of_the_other_parts_alone():
    measured = measured_on(prompts=100, samples=4)
    scale = Scale.from_calibration(measured, errors(measured))
    names = ["token_entropy", "sample_agreement", "mc_dropout"]
    alone = Scale.from_calibration(replace(measured, greedy_scores=measured.greedy_scores[:1], reward_models=1), errors(measured))
    both = scale.restricted_to(names)
    assert list(alone.parts) == list(both.parts) == names
    assert alone.combined.tolist() == both.combined.tolist()
    assert scale.restricted_to(list(scale.parts)) is scale  # with the very weights that were shipped


def test_at_dropout_rate_0_the_part_is_left_out(policy, tmp_path):
    """No pass with dropout is made, and no part of the scale, of what is written of it, or of a combination is MC dropout."""
    rate_0 = {"uncertainty_dropout_rate": 0.0, "samples_per_prompt": 2, "max_new_tokens": 8}
    params = params_as(MeasureParams, **rate_0)
    rows = [{"prompt": [{"role": "user", "content": f"Work out {number} + 4."}]} for number in range(3)]
    measured = measure(*policy, rows, [], params, seed=1, samples=2)
    assert measured.mc_dropout is None
    scale = Scale.from_calibration(measured, [None] * 3)
    left = ["token_entropy", "sample_agreement"]
    assert list(scale.parts) == list(scale.as_json()["weights"]) == list(scale.raw_parts(measured)) == left
    write_json(tmp_path / "scale.json", scale.as_json())
    assert Scale.load(tmp_path / "scale.json", samples=2).uncertainty(measured).tolist() == scale.uncertainty(measured).tolist()
    two = replace(measured_on(prompts=20, samples=4), mc_dropout=None)
    assert list(Scale.from_calibration(two, [None] * 20).parts) == [*left, "verifier_disagreement"]
    again = params_as(MeasureParams, **rate_0, uncertainty_dropout_mode="regenerate", uncertainty_dropout_samples=2)
    assert measure(*policy, rows, [], again, seed=1, samples=2).mc_dropout is not None  # new samples differ without dropout, too


def test_scores_are_centred_on_as_many_samples_as_on_the_calibration_split():
    measured = measured_on(prompts=20, samples=4)
    scale, scores = Scale.from_calibration(measured, [None] * 20), measured.sample_scores
    more = replace(measured, sample_scores=np.concatenate([scores, 9 + scores], axis=2))
    assert scale.uncertainty(more).tolist() == scale.uncertainty(measured).tolist()


def test_entropy_ranks_by_hand():
    scale = Scale.from_parts({"token_entropy": np.array([0.1, 0.2, 0.4, 0.8])}, [None] * 4, np.ones(2), samples=4)
    assert scale.entropy_ranks([0.05, 0.2, 0.3, 1.0]).tolist() == [0, 0.5, 0.5, 1]


def test_disagreement_ignores_a_members_scale_and_each_prompts_offset():
    generator = np.random.default_rng(1)
    greedy, samples = generator.normal(size=(3, 20)), generator.normal(size=(3, 20, 6))
    scale, offset = np.array([1.0, 5.0, 0.1]), generator.normal(size=(3, 20)) * 10
    moved_greedy, moved = greedy * scale[:, None] + offset, samples * scale[:, None, None] + offset[..., None]
    first = disagreement(centred_scores(greedy, samples, within_prompt_deviation(samples)))
    second = disagreement(centred_scores(moved_greedy, moved, within_prompt_deviation(moved)))
    assert first == pytest.approx(second, rel=1e-4)


def test_units_of_an_exact_and_of_a_learned_score():
    """Of five prompts, three with all samples right, wrong or unscored. One of four right deviates by sqrt(3) / 4, two by 1/2.

    Their median is 0.4665, so that right over wrong is worth 2.14 units; over the four scored prompts it would be half of sqrt(3) / 4.
    The learned score's deviations, 0 for equal responses, 1, 2, 3 and 4, have the median 2.
    """
    exact = [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [np.nan] * 4]
    learned = [[7, 7, 7, 7], [1, -1, 1, -1], [2, -2, 2, -2], [8, 2, 8, 2], [4, -4, 4, -4]]
    assert within_prompt_deviation(np.array([exact, learned], dtype=float)) == pytest.approx([(np.sqrt(3) / 4 + 0.5) / 2, 2.0])


def test_the_unit_of_a_score_that_tells_no_samples_apart():
    """Half its range, the largest deviation that it could have; 1 where there is but one score, or none."""
    all_right_or_wrong, all_wrong, abstains = [[1, 1], [0, 0], [0, 0]], [[0, 0]] * 3, [[np.nan, np.nan]] * 3
    assert within_prompt_deviation(np.array([all_right_or_wrong, all_wrong, abstains], dtype=float)).tolist() == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("mixed", range(1, 21))
def test_right_over_wrong_is_worth_2_to_3_units_however_many_prompts_have_both(mixed):
    """Eight samples of twenty prompts, of which some have one to seven right ones and the others none: 1 / sqrt(p (1 - p))."""
    rows = [[1.0] * (1 + number % 7) + [0.0] * (7 - number % 7) for number in range(mixed)] + [[0.0] * 8] * (20 - mixed)
    assert 2 <= 1 / within_prompt_deviation(np.array([rows]))[0] <= 8 / np.sqrt(7)


def test_samples_that_a_member_abstains_from_are_no_spread():
    """1 and 0 of the two that it scores: 1/2."""
    assert within_prompt_deviation(np.array([[[1, 0, np.nan, np.nan], [1, np.nan, np.nan, np.nan]]])).tolist() == [0.5]


def test_functions_have_no_part_in_the_uncertainty():
    """They know the answer, which the uncertainty is to do without: two models and a function disagree as the two models do."""
    two = measured_on(prompts=20, samples=4)
    with_function = replace(
        two,
        greedy_scores=np.concatenate([two.greedy_scores, np.full((1, 20), np.nan)]),
        sample_scores=np.concatenate([two.sample_scores, np.eye(20)[None, :, :4]]),
    )
    scale = Scale.from_calibration(with_function, [None] * 20)
    assert (
        scale.raw_parts(with_function)["verifier_disagreement"].tolist()
        == Scale.from_calibration(two, [None] * 20).raw_parts(two)["verifier_disagreement"].tolist()
    )
    assert len(scale.deviation) == 3
    assert scale.uncertainty(two).tolist() == scale.uncertainty(with_function).tolist()  # as ask.py measures it: without functions
    one = replace(
        with_function, greedy_scores=with_function.greedy_scores[1:], sample_scores=with_function.sample_scores[1:], reward_models=1
    )
    assert "verifier_disagreement" not in Scale.from_calibration(one, [None] * 20).parts


def test_disagreement_by_hand():
    """Centred scores 1 and -1 have the standard deviation 1, equal ones 0."""
    assert disagreement(np.array([[1.0, 2.0], [-1.0, 2.0]])).tolist() == [1.0, 0.0]
