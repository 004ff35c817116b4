"""score_uncertainty: the current policy answers the regret prompts, and says how unsure it is.

    python stages/score_uncertainty.py --round 0 --after sft

For each prompt one greedy response, the one that is judged, and samples; token entropy, MC dropout, agreement
with the samples and verifier disagreement of the greedy response on the frozen scale. The calibration prompts, whose
answers are known, are asked with them, but in round 0: there calibrate_uncertainty has asked the same policy. They say
how well each signal finds the wrong greedy responses (AUROC), and to build_regret_buffer how far a chosen response can
be trusted. Writes data/responses/round<k>.jsonl, data/responses/calibration_round<k>.jsonl and
metrics/uncertainty/round<k>.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from anchora.correctness.references import correctness, sampled_correctness
from anchora.model.adapters import policy_from_folder
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.model.seeds import derived_seed
from anchora.regret.regret import regrets
from anchora.run.files import read_jsonl, write_json, write_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.uncertainty.measure import measure, measured_rows, within_length
from anchora.uncertainty.reliability import auroc
from anchora.uncertainty.scale import Scale
from anchora.verifiers.ensemble import count_reward_models, ensemble_members
from parameters.score_uncertainty import ScoreUncertaintyParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--after", required=True, help="sft, or round<k> whose policy answers")
    args = parser.parse_args()
    params = read_params(ScoreUncertaintyParams)
    log_params(params)
    use_machine(params)

    model, tokenizer = load_policy(policy_from_folder(Path(params.output_dir) / args.after, params.output_dir), params)
    all_prompts = read_jsonl("data/prepared/prompts.jsonl")
    prompts = within_length(tokenizer, all_prompts, params)
    # Of the SFT policy, calibrate_uncertainty has measured the calibration prompts.
    asked_again = [] if args.after == "sft" else within_length(tokenizer, read_jsonl("data/prepared/calibration.jsonl"), params)
    scale = Scale.load(Path(params.output_dir) / "calibration.json", params.samples_per_prompt)
    members = ensemble_members(params.output_dir, params)
    measured = measure(
        model, tokenizer, prompts + asked_again, members, params,
        seed=derived_seed(params.seed, "round", args.round), samples=params.samples_per_prompt,
    )  # fmt: skip
    rows = measured_rows(prompts + asked_again, measured, scale.raw_parts(measured), scale.entropy_ranks)
    rows, of_calibration = rows[: len(prompts)], rows[len(prompts) :] or read_jsonl("data/responses/calibration_sft.jsonl")
    rows = with_uncertainty(rows, scale.combine(parts_of(rows)))
    of_calibration = with_uncertainty(of_calibration, scale.combine_calibration(parts_of(of_calibration)))
    write_jsonl(f"data/responses/round{args.round}.jsonl", sorted(rows, key=lambda row: row["id"]))
    write_jsonl(f"data/responses/calibration_round{args.round}.jsonl", sorted(of_calibration, key=lambda row: row["id"]))

    regret = regret_by_models(of_calibration, scale.deviation[: count_reward_models(members)], params.regret_penalty)
    metrics = calibration_metrics(of_calibration, regret, params.answer_reading)
    uncertainty = [row["uncertainty"] for row in rows]
    metrics["prompts"], metrics["dropped_overlong"] = len(prompts), len(all_prompts) - len(prompts)
    metrics["saturated"] = round(float(np.mean([value in (0.0, 1.0) for value in uncertainty])), 4)
    metrics["mean_uncertainty"] = round(float(np.mean(uncertainty)), 4)
    write_json(f"metrics/uncertainty/round{args.round}.json", {"uncertainty": {f"round{args.round}": metrics}})
    say(f"round {args.round}: {len(prompts)} prompts, AUROC of the combined uncertainty {metrics['auroc']['combined']}")


def parts_of(rows: list[dict]) -> dict[str, np.ndarray]:
    """Return the raw parts of the uncertainty of ``rows``, (rows,) each."""
    return {name: np.array([row["parts"][name] for row in rows]) for name in rows[0]["parts"]}


def with_uncertainty(rows: list[dict], uncertainty: np.ndarray) -> list[dict]:
    """Return measured rows with their ``uncertainty``, (rows,)."""
    return [{**row, "uncertainty": float(value)} for row, value in zip(rows, uncertainty, strict=True)]


def regret_by_models(rows: list[dict], deviation: np.ndarray, regret_penalty: float) -> np.ndarray | None:
    """Return the regret of the greedy responses over their samples by reward models alone, (rows,); None without any.

    Scoring functions may read the known answer, so that their regret would tell right from wrong by the very thing that it is held
    against. ``deviation``: (reward models,), which are the first members.
    """
    models = len(deviation)
    if not models or not rows:
        return None
    greedy = np.array([row["greedy"]["scores"][:models] for row in rows], dtype=float).T  # (models, rows)
    samples = np.array([[sample["scores"][:models] for sample in row["samples"]] for row in rows], dtype=float).transpose(2, 0, 1)
    return regrets(greedy, samples, deviation, regret_penalty)


def calibration_metrics(rows: list[dict], regret: np.ndarray | None, reading: str) -> dict:
    """Return the AUROC of every signal for the greedy response being wrong, and accuracies, over rows whose answer is known; else None.

    ``regret``: (rows,), or None where it is no signal.
    """
    correct = correctness(rows, [row["greedy"]["text"] for row in rows], reading)
    known = np.array([is_right is not None for is_right in correct], dtype=bool)
    labelled = [row for row, is_known in zip(rows, known, strict=True) if is_known]
    wrong = np.array([not is_right for is_right in correct if is_right is not None], dtype=bool)
    signals = {name: [row["parts"][name] for row in labelled] for name in (rows[0]["parts"] if rows else {})}
    signals["combined"] = [row["uncertainty"] for row in labelled]
    if regret is not None:
        signals["regret"] = regret[known].tolist()
    areas = {name: auroc(wrong, values) if labelled else None for name, values in signals.items()}
    texts = [[sample["text"] for sample in row["samples"]] for row in labelled]
    sampled = sampled_correctness(labelled, texts, reading)
    return {
        "auroc": {name: None if area is None else round(area, 4) for name, area in areas.items()},
        "exact_match": round(float(1 - wrong.mean()), 4) if labelled else None,
        "sampled_accuracy": round(float(np.array(sampled, dtype=float).mean()), 4) if labelled else None,
        "best_of_samples": round(float(np.mean([any(row) for row in sampled])), 4) if labelled else None,
        "known": len(labelled),
    }


if __name__ == "__main__":
    run_stage(main)
