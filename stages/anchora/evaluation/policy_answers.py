"""Ask one policy the evaluation sets: its answers, their uncertainty, and the probability that they are right."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from anchora.correctness.references import correctness, sampled_correctness
from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.benchmarks import answer_turns
from anchora.model.seeds import derived_seed
from anchora.regret.regret import regrets
from anchora.run.files import read_json, read_jsonl, write_json
from anchora.sampling.responses import Response
from anchora.uncertainty.measure import measure, measure_calibration, within_length
from anchora.uncertainty.reliability import fit_correctness, labelled_answers
from anchora.uncertainty.scale import Scale
from anchora.verifiers.ensemble import reward_models


@dataclass(frozen=True)
class Answers:
    """The answers of a policy to every set; arrays are over the n problems of GSM8K, whose answers are right or wrong."""

    greedy: list[Response]
    sampled_pairs: list[tuple[list[int], list[int]]]  # (prompt ids, ids of its first sample)
    correct: np.ndarray  # (n,) bool, greedy
    sampled: np.ndarray  # (n,) share of right samples
    uncertainty: np.ndarray  # (n,) in [0, 1]
    probability: np.ndarray  # (n,) P(correct), nan where it could not be fitted
    calibration: tuple[list[float], list[bool]]  # uncertainty and correctness on the calibration split, where known
    signals: dict[str, np.ndarray]  # (n,) each: the raw parts of the uncertainty, and by reward models the regret over the samples
    turns: dict[str, list[list[str]]]  # of each other set: the answers to every turn of its rows

    def has_probability(self) -> bool:
        """Return whether P(correct) could be fitted: enough answers of the calibration split must be known to be right or wrong."""
        return not np.isnan(self.probability).any()


def write_answers(path: str | Path, answers: Answers) -> None:
    """Write one JSON file, from which ``read_answers`` makes equal answers; nan is written as null."""
    row = {field.name: getattr(answers, field.name) for field in fields(Answers)}
    row["greedy"] = [asdict(response) for response in answers.greedy]
    for name in ("correct", "sampled", "uncertainty"):
        row[name] = row[name].tolist()
    row["probability"] = answers.probability.tolist() if answers.has_probability() else [None] * len(answers.correct)
    row["signals"] = {name: values.tolist() for name, values in answers.signals.items()}
    write_json(path, row)


def read_answers(path: str | Path) -> Answers:
    """Read the answers that ``write_answers`` wrote."""
    row = read_json(path)
    row["greedy"] = [Response(**response) for response in row["greedy"]]
    row["sampled_pairs"] = [tuple(pair) for pair in row["sampled_pairs"]]
    row["correct"] = np.array(row["correct"], dtype=bool)
    for name in ("sampled", "uncertainty", "probability"):
        row[name] = np.array(row[name], dtype=float)
    row["calibration"] = tuple(row["calibration"])
    row["signals"] = {name: np.array(values) for name, values in row["signals"].items()}
    return Answers(**row)


def evaluation_sets(tokenizer, params: AnswerParams) -> dict[str, list[dict]]:
    """Read the rows of each set in the order of its file, the first ``limit`` of each unless that is 0.

    Rows whose prompts are too long are dropped or refused, as ``overlong_prompts`` says.
    """
    sets: dict[str, list[dict]] = {}
    for row in sorted(read_jsonl("data/prepared/evaluation.jsonl"), key=lambda row: (row["set"], row["position"])):
        sets.setdefault(row["set"], []).append(row)
    return {name: within_length(tokenizer, rows[: params.limit or None], params) for name, rows in sets.items()}


def answer(path: Path, model, tokenizer, sets: dict[str, list[dict]], params: AnswerParams) -> Answers:
    """Answer every set with the policy of folder ``path``; P(correct) is fitted on its own answers to the calibration split."""
    scale = Scale.load(Path(params.output_dir) / "calibration.json", params.samples_per_prompt)
    calibration = labelled_answers(*calibration_answers(path, model, tokenizer, scale, params))
    rows, reading = sets["gsm8k"], params.answer_reading
    verifiers = reward_models(params.output_dir, params.verifiers)  # functions may read the known answer, which is not to be used here
    measured = measure(
        model, tokenizer, rows, verifiers, params,
        seed=derived_seed(params.seed, "evaluation"), samples=max(params.samples_per_prompt, params.evaluation_samples),
    )  # fmt: skip
    uncertainty = scale.uncertainty(measured)
    signals = scale.raw_parts(measured)
    if verifiers:
        scores, deviation = measured.sample_scores[:, :, : scale.samples], scale.deviation[: len(verifiers)]
        signals["regret"] = regrets(measured.greedy_scores, scores, deviation, params.regret_penalty)
    samples = [[response.text for response in responses[: params.evaluation_samples]] for responses in measured.samples]
    return Answers(
        greedy=measured.greedy,
        sampled_pairs=[(ids, responses[0].ids) for ids, responses in zip(measured.prompt_ids, measured.samples, strict=True)],
        correct=np.array(correctness(rows, [response.text for response in measured.greedy], reading), dtype=bool),
        sampled=np.array([np.array(correct, dtype=float).mean() for correct in sampled_correctness(rows, samples, reading)]),
        uncertainty=uncertainty,
        signals=signals,
        probability=fit_correctness(*calibration)(uncertainty) if calibration[0] else np.full(len(rows), np.nan),
        calibration=calibration,
        turns={name: answer_turns(model, tokenizer, rows, params, name) for name, rows in sets.items() if name != "gsm8k"},
    )


def calibration_answers(path: Path, model, tokenizer, scale: Scale, params: AnswerParams) -> tuple[list[float], list[bool | None]]:
    """Return uncertainty and correctness of a policy's greedy responses to the calibration split.

    Earlier stages have them for the exported policy and for the SFT policy, of folder ``path``; any other policy is asked here.
    The exported figures count where scale and settings are those of the export.
    """
    exported = read_json(path / "uncertainty.json") if (path / "uncertainty.json").is_file() else {}
    settings = {name: getattr(params, name, None) for name in exported.get("settings", {})}
    wanted = {**scale.as_json(), "settings": settings}
    if all(exported.get(name) == value for name, value in wanted.items()):
        return exported["calibration_uncertainty"], exported["calibration_correct"]
    if path == Path(params.output_dir) / "sft":
        return scale.combine_calibration(scale.parts).tolist(), scale.correct
    verifiers = reward_models(params.output_dir, params.verifiers)
    _, measured, correct = measure_calibration(model, tokenizer, verifiers, params)
    return scale.uncertainty(measured).tolist(), correct  # not by folds: another tokenizer may have dropped other prompts
