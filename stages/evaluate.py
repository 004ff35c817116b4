"""evaluate: the final policy against the SFT policy, on prompts that nothing else has seen.

    python stages/evaluate.py
    python stages/evaluate.py --policy A --baseline B --out logs/comparison

GSM8K by exact match of the last number, greedy and over samples; AlpacaEval and MT-Bench by the judge
that was kept out; calibration of the uncertainty; drift from the SFT policy. Every comparison is paired
and has an interval. Writes the outputs to ${output_dir}/evaluation, all figures to
metrics/evaluation.json and the few that people compare to metrics/summary.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from anchora.correctness.numbers import READINGS
from anchora.evaluation.drift import policy_states, reverse_kl
from anchora.evaluation.harness import flexible_match, strict_match
from anchora.evaluation.judging import api_judge, own_judge, win_rates_over_first
from anchora.evaluation.params import EvaluateParams
from anchora.evaluation.policy_answers import Answers, answer, evaluation_sets, read_answers
from anchora.evaluation.statistics import bootstrap_mean, bootstrap_sides, mcnemar_p, rounded, wilson
from anchora.model.loading import load_policy, load_tokenizer
from anchora.model.machine import use_machine
from anchora.model.pins import from_folder
from anchora.run.files import new_file, new_folder, read_json, read_jsonl, write_json, write_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.uncertainty.reliability import (
    RELIABILITY_BINS,
    abstention_threshold,
    aurc,
    brier,
    coverage_at_risk,
    expected_calibration_error,
    is_answered,
    reliability_bins,
    risk_coverage,
)
from anchora.uncertainty.scale import auroc
from anchora.verifiers.ensemble import ensemble_members

MEDIAN = 0.5  # of the uncertainty on the calibration split, by its scale
Scorers = tuple[dict[str, str], list[dict[str, str]], np.ndarray]  # judge, ensemble, (members,) deviations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", help="folder of the policy; ${output_dir}/ugrr_final unless given")
    parser.add_argument("--baseline", help="folder of the baseline; the SFT policy, as answer_baseline found it, unless given")
    parser.add_argument("--out", type=Path, help="folder for outputs and metrics instead of the pipeline's own places")
    args = parser.parse_args()
    if (args.policy or args.baseline) and not args.out:
        parser.error("--policy and --baseline want --out: the pipeline's own metrics are those of its own policies")
    params = read_params(EvaluateParams)
    log_params(params)
    use_machine(params)

    output = Path(params.output_dir)
    paths = Path(args.policy or output / "ugrr_final"), Path(args.baseline or output / "sft")
    model, tokenizer = load_policy(from_folder(paths[0]), params)
    sets = evaluation_sets(tokenizer, params)
    policy = answer(paths[0], model, tokenizer, sets, params)
    states = policy_states(model, tokenizer, load_tokenizer(from_folder(paths[1]), params), policy.sampled_pairs, params)
    del model  # a GPU need hold one of both alone
    model, tokenizer = load_policy(from_folder(paths[1]), params)
    baseline = answer(paths[1], model, tokenizer, sets, params) if args.baseline else read_answers(output / "sft_answers.json")
    drift = reverse_kl(states, model, tokenizer, policy.sampled_pairs, params)
    del model, states
    scorers = judge_and_ensemble(params)
    metrics = {
        "gsm8k": gsm8k_metrics(policy, baseline, sets["gsm8k"], params),
        **judged(sets, policy, baseline, scorers, params),
        "calibration": calibration_metrics(policy, baseline, params.seed),
        "selective": selective_metrics(policy, params.target_risk),
        "drift": drift,
    }
    if not (args.policy or args.baseline):
        metrics["rounds"] = judged_by_round(scorers, params)
    metrics_folder = args.out or Path("metrics")
    write_outputs(args.out / "outputs" if args.out else output / "evaluation", sets, policy, baseline)
    write_json(metrics_folder / "evaluation.json", {"evaluation": metrics})
    write_plots(metrics_folder / "plots", policy, baseline)
    write_json(metrics_folder / "summary.json", summary(metrics))
    gsm8k = metrics["gsm8k"]
    say(f"evaluation: exact match {gsm8k['baseline_exact_match']:.3f} -> {gsm8k['exact_match']:.3f}")


def judge_and_ensemble(params: EvaluateParams) -> Scorers:
    """The kept-out judge, the ensemble, and the deviations that put its members on one scale."""
    output = Path(params.output_dir)
    deviation = np.array(read_json(output / "calibration.json")["deviation"])
    return from_folder(output / "judge"), ensemble_members(params.output_dir, params.verifiers), deviation


def judged(sets: dict, policy: Answers, baseline: Answers, scorers: Scorers, params: EvaluateParams) -> dict:
    """AlpacaEval, MT-Bench and their like by the judge that was kept out of training, or by ``judge_model``."""
    answers = {name: (turns, baseline.turns[name]) for name, turns in policy.turns.items()}
    if params.judge_model:
        return {name: api_judge(sets[name], *sides, params) for name, sides in answers.items()}
    return {name: own_judge(*scorers, sets[name], *sides, params) for name, sides in answers.items()}


def judged_by_round(scorers: Scorers, params: EvaluateParams) -> dict[str, dict]:
    """Win rate over the SFT policy of the policy after each round, greedy on the calibration prompts, by the kept-out judge."""
    measured = [read_jsonl(f"data/responses/calibration_round{entry.k}.jsonl") for entry in params.rounds]  # each before its round
    final = {row["id"]: row["text"] for row in read_jsonl("data/responses/final.jsonl")}
    answers = [[row["greedy"]["text"] for row in rows] for rows in measured] + [[final[row["id"]] for row in measured[0]]]
    found = win_rates_over_first(*scorers, [row["prompt"] for row in measured[0]], answers, params)
    return {f"round{entry.k}": figures for entry, figures in zip(params.rounds, found, strict=True)}


def gsm8k_metrics(policy: Answers, baseline: Answers, rows: list[dict], params: EvaluateParams) -> dict:
    """Exact match, greedy and sampled, of both policies; beside it what lm-evaluation-harness would count."""
    n, seed = len(policy.correct), params.seed
    difference = policy.correct.astype(float) - baseline.correct
    newly_right, newly_wrong = int((difference > 0).sum()), int((difference < 0).sum())
    low, high = bootstrap_mean(difference, seed)
    sampled_low, sampled_high = bootstrap_mean(policy.sampled - baseline.sampled, seed)
    metrics: dict = {"examples": n, "newly_right": newly_right, "newly_wrong": newly_wrong, "p_value": mcnemar_p(newly_right, newly_wrong)}
    metrics |= {"difference": difference.mean(), "difference_low": low, "difference_high": high}
    metrics |= {
        "sampled_difference": (policy.sampled - baseline.sampled).mean(),
        "sampled_difference_low": sampled_low,
        "sampled_difference_high": sampled_high,
    }
    references, read = [row["reference"] for row in rows], READINGS[params.answer_reading]
    for prefix, answers in (("", policy), ("baseline_", baseline)):
        greedy = answers.greedy
        pairs = [(response.text, reference) for response, reference in zip(greedy, references, strict=True)]
        share_low, share_high = wilson(int(answers.correct.sum()), n)
        metrics |= {
            f"{prefix}exact_match": answers.correct.mean(),
            f"{prefix}exact_match_low": share_low,
            f"{prefix}exact_match_high": share_high,
            f"{prefix}sampled_accuracy": answers.sampled.mean(),
            f"{prefix}harness_strict": np.mean([strict_match(*pair) for pair in pairs]),
            f"{prefix}harness_flexible": np.mean([flexible_match(*pair) for pair in pairs]),
            f"{prefix}extraction_failures": sum(read(response.text) is None for response in greedy),
            f"{prefix}truncations": sum(not response.finished for response in greedy),
            f"{prefix}mean_tokens": np.mean([len(response.ids) for response in greedy]),
        }
    return rounded(metrics)


def calibration_metrics(policy: Answers, baseline: Answers, seed: int) -> dict:
    """How well the uncertainty ranks errors, and how well P(correct) keeps its word, for each policy."""
    metrics: dict = {}
    for prefix, answers in (("", policy), ("baseline_", baseline)):
        wrong = ~answers.correct
        area, excess = aurc(answers.uncertainty, wrong)
        metrics |= {
            f"{prefix}ece": expected_calibration_error(answers.probability, answers.correct) if answers.has_probability() else None,
            f"{prefix}brier": brier(answers.probability, answers.correct) if answers.has_probability() else None,
            **{f"{prefix}auroc_{name}": auroc(wrong, values) for name, values in answers.signals.items()},
            f"{prefix}aurc": area,
            f"{prefix}excess_aurc": excess,
        }
    sides = [(~answers.correct, answers.uncertainty) for answers in (policy, baseline)]
    metrics |= compared("auroc", auroc, sides, seed)
    metrics |= compared("coverage_at_5_risk", lambda wrong, uncertainty: coverage_at_risk(uncertainty, wrong, 0.05), sides, seed)
    return rounded(metrics)


def compared(name: str, statistic, sides: list[tuple], seed: int) -> dict:
    """A figure of both policies with its interval, and the interval of its difference; ``sides`` are what it is taken of."""
    policy, baseline = sides
    names = (name, f"baseline_{name}", f"{name}_difference")
    intervals = zip(names, bootstrap_sides(statistic, policy, baseline, seed), strict=True)
    figures = {f"{figure}_{end}": value for figure, interval in intervals for end, value in zip(("low", "high"), interval, strict=True)}
    return figures | {name: statistic(*policy), f"baseline_{name}": statistic(*baseline)}


def selective_metrics(policy: Answers, target_risk: float) -> dict:
    """What answering only below the threshold does on these problems; the threshold was set on the calibration split."""
    threshold = abstention_threshold(*policy.calibration, target_risk)
    answered = is_answered(policy.uncertainty, threshold, len(policy.calibration[1]))
    wrong = int((~policy.correct[answered]).sum())
    low, high = wilson(wrong, int(answered.sum())) if answered.any() else (None, None)
    return rounded(
        {
            "target_risk": target_risk, "calibration_answers": len(policy.calibration[1]), "threshold": threshold,
            "answered": answered.mean(),
            "risk": wrong / answered.sum() if answered.any() else None, "risk_low": low, "risk_high": high,
        }
    )  # fmt: skip


def write_outputs(path: Path, sets: dict, policy: Answers, baseline: Answers) -> None:
    """The answers of both policies, in the official formats where a set has one."""
    with new_folder(path) as partial:
        write_jsonl(
            partial / "gsm8k.jsonl",
            (
                {
                    "id": row["id"], "prompt": row["prompt"], "reference": row["reference"],
                    "policy": policy.greedy[i].text, "policy_correct": bool(policy.correct[i]),
                    "policy_uncertainty": float(policy.uncertainty[i]),
                    "baseline": baseline.greedy[i].text, "baseline_correct": bool(baseline.correct[i]),
                    "baseline_uncertainty": float(baseline.uncertainty[i]),
                }
                for i, row in enumerate(sets["gsm8k"])
            ),
        )  # fmt: skip
        for model, answers in (("ugrr", policy), ("sft", baseline)):
            for name, turns in answers.turns.items():
                write_turns(partial / name, model, sets[name], turns)


def write_turns(folder: Path, model: str, rows: list[dict], answers: list[list[str]]) -> None:
    """The answers of one policy to a judged set: AlpacaEval's and MT-Bench's in their official formats, others as they are."""
    pairs = list(zip(rows, answers, strict=True))
    if folder.name == "alpaca_eval":
        outputs = [
            {"instruction": row["turns"][0], "output": text, "generator": model, "dataset": row["dataset"]} for row, (text,) in pairs
        ]
        write_json(folder / model / "model_outputs.json", outputs)
    elif folder.name == "mt_bench":
        lines = (
            {
                "question_id": row["question_id"], "answer_id": f"{model}-{row['question_id']}", "model_id": model,
                "choices": [{"index": 0, "turns": turns}], "tstamp": 0.0,
            }
            for row, turns in pairs
        )  # fmt: skip
        write_jsonl(folder / "model_answer" / f"{model}.jsonl", lines)
    else:
        write_jsonl(folder / f"{model}.jsonl", ({"id": row["id"], "turns": row["turns"], "answers": turns} for row, turns in pairs))


def write_plots(path: Path, policy: Answers, baseline: Answers) -> None:
    """Tables that DVC and the report draw: reliability, risk against coverage, right and wrong against sure and unsure."""
    sides = {"SFT": baseline, "UGRR": policy}
    coverage = pd.DataFrame({name: risk_coverage(answers.uncertainty, ~answers.correct) for name, answers in sides.items()})
    coverage.insert(0, "coverage", (np.arange(len(coverage)) + 1) / len(coverage))
    confusion = pd.concat(
        pd.DataFrame(
            {
                "actual": np.where(answers.correct, f"{name} right", f"{name} wrong"),
                "predicted": np.where(answers.uncertainty > MEDIAN, "unsure", "sure"),
            }
        )
        for name, answers in sides.items()
    )
    tables = {f"reliability_{name.lower()}": reliability(name, answers) for name, answers in sides.items()}
    for name, table in {**tables, "risk_coverage": coverage, "confusion": confusion}.items():
        with new_file(path / f"{name}.csv") as partial:
            table.to_csv(partial, index=False, float_format="%.6g")


def reliability(name: str, answers: Answers) -> pd.DataFrame:
    """Share of right answers, in column ``name``, by bins of P(correct); those without answers are left out, as DVC draws blanks at 0."""
    share, count = reliability_bins(answers.probability, answers.correct) if answers.has_probability() else np.zeros((2, RELIABILITY_BINS))
    middle = (np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS
    return pd.DataFrame({"probability": middle, "calibrated": middle, name: share, "answers": count})[count > 0]


def summary(metrics: dict) -> dict:
    """The flat figures that people compare between experiments."""
    gsm8k, drift = metrics["gsm8k"], metrics["drift"]
    return {
        "gain": gsm8k["difference"],
        "gain_low": gsm8k["difference_low"],
        "exact_match": gsm8k["exact_match"],
        "sampled_accuracy": gsm8k["sampled_accuracy"],
        "newly_wrong": gsm8k["newly_wrong"],
        "win_rate": metrics.get("alpaca_eval", {}).get("win_rate"),
        "auroc": metrics["calibration"]["auroc"],
        "ece": metrics["calibration"]["ece"],
        "kl": drift.get("kl_sequence"),
    }


if __name__ == "__main__":
    run_stage(main)
