"""score_uncertainty: the current policy answers the regret prompts, and says how unsure it is.

    python stages/score_uncertainty.py --round 0 --after sft

For each prompt one greedy response, the one that is judged, and samples; token entropy, MC dropout, agreement
with the samples and verifier disagreement of the greedy response on the frozen scale. The calibration prompts, whose answers
are known, are asked with them: they say how well each signal finds the wrong greedy responses (AUROC), and
to build_regret_buffer how far a chosen response can be trusted. Writes data/responses/round<k>.jsonl,
data/responses/calibration_round<k>.jsonl and metrics/uncertainty/round<k>.json.
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
from anchora.uncertainty.measure import Measured, measure, within_length
from anchora.uncertainty.reliability import auroc
from anchora.uncertainty.scale import Scale
from anchora.verifiers.ensemble import ensemble_members
from anchora.verifiers.scores import as_json
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
    calibration_rows = within_length(tokenizer, read_jsonl("data/prepared/calibration.jsonl"), params)
    scale = Scale.load(Path(params.output_dir) / "calibration.json", params.samples_per_prompt)
    measured = measure(
        model, tokenizer, prompts + calibration_rows, ensemble_members(params.output_dir, params), params,
        seed=derived_seed(params.seed, "round", args.round), samples=params.samples_per_prompt,
    )  # fmt: skip
    uncertainty = frozen_uncertainty(scale.raw_parts(measured), len(prompts), scale)
    rows = scored_rows(prompts + calibration_rows, measured, uncertainty, scale, params.regret_penalty)
    rows, of_calibration = rows[: len(prompts)], rows[len(prompts) :]
    write_jsonl(f"data/responses/round{args.round}.jsonl", sorted(rows, key=lambda row: row["id"]))
    references = [row.get("reference") for row in calibration_rows]
    referenced = [{**row, "reference": reference} for row, reference in zip(of_calibration, references, strict=True)]
    write_jsonl(f"data/responses/calibration_round{args.round}.jsonl", sorted(referenced, key=lambda row: row["id"]))

    metrics = calibration_metrics(referenced, params.answer_reading)
    uncertainty = uncertainty[: len(prompts)]
    metrics["prompts"], metrics["dropped_overlong"] = len(prompts), len(all_prompts) - len(prompts)
    metrics["saturated"] = round(float(np.mean([value in (0.0, 1.0) for value in uncertainty])), 4)
    metrics["mean_uncertainty"] = round(float(np.mean(uncertainty)), 4)
    write_json(f"metrics/uncertainty/round{args.round}.json", {"uncertainty": {f"round{args.round}": metrics}})
    say(f"round {args.round}: {len(prompts)} prompts, AUROC of the combined uncertainty {metrics['auroc']['combined']}")


def frozen_uncertainty(parts: dict[str, np.ndarray], prompts: int, scale: Scale) -> np.ndarray:
    """Return the uncertainty, (n,), of raw parts, (n,) each: the first ``prompts`` of new prompts, the others of calibration prompts."""
    of_prompts, of_calibration = ({name: values[rows] for name, values in parts.items()} for rows in (slice(prompts), slice(prompts, None)))
    return np.append(scale.combine(of_prompts), scale.combine_calibration(of_calibration))


def scored_rows(prompts: list[dict], measured: Measured, uncertainty: np.ndarray, scale: Scale, regret_penalty: float) -> list[dict]:
    """Make one row a prompt: responses, scores and raw parts, with their ``uncertainty``, (prompts,), and regret on the frozen scale."""
    parts = scale.raw_parts(measured)
    sample_regrets = regrets(measured.greedy_scores, measured.sample_scores[:, :, : scale.samples], scale.deviation, regret_penalty)
    rows = []
    for index, prompt in enumerate(prompts):
        responses = [measured.greedy[index], *measured.samples[index]]
        scores = [measured.greedy_scores[:, index], *measured.sample_scores[:, index].T]
        entropy_ranks = scale.entropy_ranks([response.entropy for response in responses])
        greedy, *samples = (
            {**response.row(), "scores": as_json(values), "entropy_rank": float(rank)}
            for response, values, rank in zip(responses, scores, entropy_ranks, strict=True)
        )
        rows.append(
            {
                "id": prompt["id"],
                "prompt": prompt["prompt"],
                "columns": prompt["columns"],
                "source": prompt["source"],
                "prompt_ids": measured.prompt_ids[index],
                "uncertainty": float(uncertainty[index]),
                "parts": {name: float(values[index]) for name, values in parts.items()},
                "sample_regret": float(sample_regrets[index]),
                "greedy": greedy,
                "samples": samples,
            }
        )
    return rows


def calibration_metrics(rows: list[dict], reading: str) -> dict:
    """Return the AUROC of every signal for the greedy response being wrong, and accuracies, over rows whose answer is known; else None."""
    correct = correctness(rows, [row["greedy"]["text"] for row in rows], reading)
    labelled = [row for row, is_right in zip(rows, correct, strict=True) if is_right is not None]
    wrong = np.array([not is_right for is_right in correct if is_right is not None], dtype=bool)
    signals = {name: [row["parts"][name] for row in labelled] for name in (rows[0]["parts"] if rows else {})}
    signals["combined"] = [row["uncertainty"] for row in labelled]
    signals["regret"] = [row["sample_regret"] for row in labelled]
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
