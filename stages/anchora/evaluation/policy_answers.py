"""What one policy answers to the evaluation sets, with the uncertainty of its answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from anchora.correctness.references import correctness, sampled_correctness
from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.benchmarks import answer_turns
from anchora.run.files import read_json, read_jsonl, write_json
from anchora.sampling.responses import Response
from anchora.uncertainty.measure import Measured, measure, within_length
from anchora.uncertainty.reliability import fit_correctness, with_known_answers
from anchora.uncertainty.scale import combined
from anchora.verifiers.ensemble import ensemble_members


@dataclass(frozen=True)
class Answers:
    """What a policy did on every set; arrays are over the n problems of GSM8K, whose answers are right or wrong."""

    greedy: list[Response]
    sampled_pairs: list[tuple[list[int], list[int]]]  # (prompt ids, ids of its first sample)
    correct: np.ndarray  # (n,) bool, greedy
    sampled: np.ndarray  # (n,) share of right samples
    uncertainty: np.ndarray  # (n,) in [0, 1]
    probability: np.ndarray  # (n,) P(correct), nan where it could not be fitted
    calibration: tuple[list[float], list[bool]]  # uncertainty and correctness on the calibration split, where it is known
    signals: dict[str, np.ndarray]  # (n,) each: the raw parts of the uncertainty, and the regret over the samples
    turns: dict[str, list[list[str]]]  # of each other set: the answers to every turn of its rows

    def has_probability(self) -> bool:
        """Whether P(correct) could be fitted: some answers of the calibration split must be known."""
        return not np.isnan(self.probability).any()


def write_answers(path: str | Path, answers: Answers) -> None:
    """One JSON file, from which ``read_answers`` gives equal answers; nan is written as null."""
    row = {field.name: getattr(answers, field.name) for field in fields(Answers)}
    row["greedy"] = [asdict(response) for response in answers.greedy]
    for name in ("correct", "sampled", "uncertainty"):
        row[name] = row[name].tolist()
    row["probability"] = answers.probability.tolist() if answers.has_probability() else [None] * len(answers.correct)
    row["signals"] = {name: values.tolist() for name, values in answers.signals.items()}
    write_json(path, row)


def read_answers(path: str | Path) -> Answers:
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
    """Rows of each set in the order of its file, the first ``limit`` of each unless that is 0."""
    sets: dict[str, list[dict]] = {}
    for row in sorted(read_jsonl("data/prepared/evaluation.jsonl"), key=lambda row: (row["set"], row["position"])):
        sets.setdefault(row["set"], []).append(row)
    return {name: within_length(tokenizer, rows[: params.limit or None], params) for name, rows in sets.items()}


def calibration_answers(path: Path, model, tokenizer, calibration: dict, params: AnswerParams) -> tuple[list, list]:
    """Uncertainty and correctness of a policy's greedy responses to the calibration split.

    Earlier stages have them for the exported policy and for the SFT policy; any other one is asked here.
    """
    exported = read_json(path / "uncertainty.json") if (path / "uncertainty.json").is_file() else {}
    scales = {"weights": params.weights(), "parts": calibration["parts"], "deviation": calibration["deviation"]}
    settings = exported.get("settings", {})
    scales["settings"] = {name: getattr(params, name, None) for name in settings}
    if exported and all(exported.get(name) == value for name, value in scales.items()):
        return exported["calibration_uncertainty"], exported["calibration_correct"]
    if path == Path(params.output_dir) / "sft":
        parts, correct = {name: np.array(values) for name, values in calibration["parts"].items()}, calibration["correct"]
    else:
        rows = read_jsonl("data/prepared/calibration.jsonl")
        rows = within_length(tokenizer, rows, params)
        measured = measured_on(rows, model, tokenizer, params.seed, params.samples_per_prompt, params)
        parts, correct = (
            measured.parts(np.array(calibration["deviation"]), params.samples_per_prompt),
            correctness(rows, [r.text for r in measured.greedy], params.answer_reading),
        )
    return combined(parts, calibration, params.weights()).tolist(), correct


def measured_on(rows: list[dict], model, tokenizer, seed: int, samples: int, params: AnswerParams) -> Measured:
    verifiers = ensemble_members(params.output_dir, params.verifiers)
    return measure(model, tokenizer, [row["prompt"] for row in rows], verifiers, params, seed=seed, samples=samples)


def answer(path: Path, model, tokenizer, sets: dict[str, list[dict]], params: AnswerParams) -> Answers:
    """Every set by the policy of folder ``path``, with P(correct) fitted on its own answers to the calibration split."""
    calibration = read_json(Path(params.output_dir) / "calibration.json")
    fit = calibration_answers(path, model, tokenizer, calibration, params)
    rows = sets["gsm8k"]
    measured = measured_on(rows, model, tokenizer, params.seed + 1000, max(params.samples_per_prompt, params.evaluation_samples), params)
    deviation = np.array(calibration["deviation"])
    parts = measured.parts(deviation, params.samples_per_prompt)
    uncertainty = combined(parts, calibration, params.weights())
    calibrated = with_known_answers(*fit)
    probability = fit_correctness(*calibrated)(uncertainty) if calibrated[0] else np.full(len(rows), np.nan)
    samples = [[response.text for response in responses[: params.evaluation_samples]] for responses in measured.samples]
    return Answers(
        greedy=measured.greedy,
        sampled_pairs=[(ids, responses[0].ids) for ids, responses in zip(measured.prompt_ids, measured.samples, strict=True)],
        correct=np.array(correctness(rows, [response.text for response in measured.greedy], params.answer_reading), dtype=bool),
        sampled=np.array([np.array(right, dtype=float).mean() for right in sampled_correctness(rows, samples, params.answer_reading)]),
        uncertainty=uncertainty,
        signals=parts | {"regret": measured.regrets(deviation, params.regret_penalty, params.samples_per_prompt)},
        probability=probability,
        calibration=calibrated,
        turns={name: answer_turns(model, tokenizer, rows, params, name) for name, rows in sets.items() if name != "gsm8k"},
    )
