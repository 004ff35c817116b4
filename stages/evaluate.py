"""evaluate: the final policy against the SFT policy, on prompts that nothing else has seen.

    python stages/evaluate.py
    python stages/evaluate.py --policy A --baseline B --out logs/comparison

GSM8K by exact match of the last number, greedy and over samples; AlpacaEval and MT-Bench by the judge
that was kept out of training; calibration of the uncertainty; drift from the SFT policy; what both policies
answered to harness_tasks. Every comparison is paired and has an interval. Writes the answers to ${output_dir}/evaluation, all metrics to
metrics/evaluation.json and the few that people compare between experiments to metrics/summary.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from anchora.evaluation.api_judge import judge_by_api
from anchora.evaluation.calibration import abstention_metrics, calibration_metrics
from anchora.evaluation.drift import drift_figures
from anchora.evaluation.gsm8k import gsm8k_metrics
from anchora.evaluation.harness_metrics import harness_metrics
from anchora.evaluation.outputs import write_outputs
from anchora.evaluation.params import EvaluateParams
from anchora.evaluation.plots import write_plots
from anchora.evaluation.policy_answers import Answers, answer, evaluation_sets, read_answers
from anchora.evaluation.scoring_judge import ScoringJudge, judge_by_scores, win_rates_over_first
from anchora.kl.reverse import policy_states, reverse_kl
from anchora.model.adapters import policy_from_folder
from anchora.model.loading import load_policy, load_tokenizer
from anchora.model.machine import use_machine
from anchora.model.pins import from_folder
from anchora.run.files import read_json, read_jsonl, write_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.training.trackers import tracking
from anchora.verifiers.ensemble import RewardModel, free_members


def main() -> None:
    args = arguments()
    params = read_params(EvaluateParams)
    log_params(params)
    use_machine(params)

    output_dir = Path(params.output_dir)
    policy_path, baseline_path = Path(args.policy or output_dir / "ugrr_final"), Path(args.baseline or output_dir / "sft")
    model, tokenizer = load_policy(policy_from_folder(policy_path, output_dir), params)
    sets = evaluation_sets(tokenizer, params)
    policy = answer(policy_path, model, tokenizer, sets, params)
    baseline_pretrained = policy_from_folder(baseline_path, output_dir)
    baseline_tokenizer = load_tokenizer(baseline_pretrained, params)
    states = policy_states(model, tokenizer, baseline_tokenizer, policy.sampled_pairs, params.scoring_batch_tokens)
    del model  # so that a GPU holds one of the two at a time
    model, tokenizer = load_policy(baseline_pretrained, params)
    baseline = answer(baseline_path, model, tokenizer, sets, params) if args.baseline else read_answers(output_dir / "sft_answers.json")
    kl = reverse_kl(states, model, tokenizer, policy.sampled_pairs, params.scoring_batch_tokens)
    del model, states

    judge = scoring_judge(params)
    metrics = {
        "gsm8k": gsm8k_metrics(policy, baseline, sets["gsm8k"], params),
        **judged_sets(sets, policy, baseline, judge, params),
        "calibration": calibration_metrics(policy, baseline, params.seed),
        "selective": abstention_metrics(policy, params.target_risk, params.risk_confidence),
        "drift": drift_figures(kl, params.seed),
    }
    if not (args.policy or args.baseline):
        metrics["rounds"] = judged_rounds(judge, params)
        if params.harness_tasks:
            metrics["harness"] = harness_metrics(params.harness_tasks, params.seed)

    metrics_folder = args.out or Path("metrics")
    write_outputs(args.out / "outputs" if args.out else output_dir / "evaluation", sets, policy, baseline)
    write_json(metrics_folder / "evaluation.json", {"evaluation": metrics})
    write_plots(metrics_folder / "plots", policy, baseline)
    write_json(metrics_folder / "summary.json", summary(metrics))
    with tracking(params.trackers, params.log_dir) as track:
        track(metrics, 0)
    gsm8k = metrics["gsm8k"]
    say(f"evaluation: exact match {gsm8k['baseline_exact_match']:.3f} -> {gsm8k['exact_match']:.3f}")


def arguments() -> argparse.Namespace:
    """Read the command line; policies other than the pipeline's own need a folder of their own for metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", help="folder of the policy; ${output_dir}/ugrr_final unless given")
    parser.add_argument("--baseline", help="folder of the baseline; the SFT policy, as answer_baseline found it, unless given")
    parser.add_argument("--out", type=Path, help="folder for outputs and metrics instead of the pipeline's own places")
    args = parser.parse_args()
    if (args.policy or args.baseline) and not args.out:
        parser.error("--policy and --baseline want --out: the pipeline's own metrics are those of its own policies")
    return args


def scoring_judge(params: EvaluateParams) -> ScoringJudge:
    """Locate the kept-out judge, if one was trained, and the ensemble, with the deviations that calibration measured."""
    output_dir = Path(params.output_dir)
    deviation = np.array(read_json(output_dir / "calibration.json")["deviation"])
    judge = RewardModel(from_folder(output_dir / "judge")) if (output_dir / "judge" / "config.json").is_file() else None
    members = free_members(params.output_dir, params)
    return ScoringJudge(judge, members, deviation[: len(members)])


def judged_sets(sets: dict[str, list[dict]], policy: Answers, baseline: Answers, judge: ScoringJudge, params: EvaluateParams) -> dict:
    """Return the win rates on AlpacaEval, MT-Bench and the like, by the kept-out judge, or by ``judge_model`` where one is set."""
    answers = {name: (turns, baseline.turns[name]) for name, turns in policy.turns.items()}
    if params.judge_model:
        return {name: judge_by_api(sets[name], *pair, params) for name, pair in answers.items()}
    return {name: judge_by_scores(judge, sets[name], *pair, params) for name, pair in answers.items()}


def judged_rounds(judge: ScoringJudge, params: EvaluateParams) -> dict[str, dict]:
    """Return the win rate over the SFT policy after each round: greedy responses to the calibration prompts, by the kept-out judge."""
    # Round k begins by measuring the policy that it starts from: the SFT policy in round 0, later the one that round k - 1 made.
    measured = [read_jsonl(f"data/responses/calibration_round{entry.k}.jsonl") for entry in params.rounds]
    final = {row["id"]: row["text"] for row in read_jsonl("data/responses/final.jsonl")}
    responses = [[row["greedy"]["text"] for row in rows] for rows in measured] + [[final[row["id"]] for row in measured[0]]]
    win_rates = win_rates_over_first(judge, measured[0], responses, params)
    return {f"round{entry.k}": metrics for entry, metrics in zip(params.rounds, win_rates, strict=True)}


def summary(metrics: dict) -> dict:
    """Pick the metrics that people compare between experiments, of each harness task its first; flat, None where one was not measured."""
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
        **{f"harness_gain_{task}": next(iter(found.values()))["difference"] for task, found in metrics.get("harness", {}).items()},
    }


if __name__ == "__main__":
    run_stage(main)
