"""score_uncertainty: the current policy answers the regret prompts, and says how unsure it is.

    python stages/score_uncertainty.py --round 0 --after sft

For each prompt one greedy response, the one that is judged, and samples; token entropy, MC dropout and
verifier disagreement of the greedy response on the frozen scales. Writes data/responses/round<k>.jsonl
and, from prompts with known answers, the AUROC of each signal in metrics/uncertainty/round<k>.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from anchora.files import read_json, read_jsonl, write_json, write_jsonl
from anchora.machine import use_machine
from anchora.measure import Measured, measure
from anchora.models import folder, load_policy
from anchora.params import read_params
from anchora.prompts import within_length
from anchora.references import correctness
from anchora.stage import log_params, run_stage, say
from anchora.uncertainty import auroc, combined, ecdf
from anchora.verifiers import member_sources
from parameters.score_uncertainty import ScoreUncertaintyParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--after", required=True, help="sft, or round<k> whose policy answers")
    args = parser.parse_args()
    params = read_params(ScoreUncertaintyParams)
    log_params(params, params.log_dir)
    use_machine(params)

    model, tokenizer = load_policy(folder(Path(params.output_dir) / args.after), params)
    everything = read_jsonl("data/prepared/prompts.jsonl")
    prompts = within_length(tokenizer, everything, params.room(), params.prompt_template, params.overlong_prompts)
    probes = read_jsonl("data/prepared/calibration.jsonl")
    probes = within_length(tokenizer, probes, params.room(), params.prompt_template, params.overlong_prompts)
    calibration = read_json(Path(params.output_dir) / "calibration.json")
    measured = measure(
        model, tokenizer, [row["prompt"] for row in prompts + probes],
        member_sources(params.output_dir, params.verifiers), params,
        seed=params.seed + 1 + args.round, samples=params.samples_per_prompt,
    )  # fmt: skip
    rows = scored_rows(prompts + probes, measured, calibration, params)
    write_jsonl(f"data/responses/round{args.round}.jsonl", sorted(rows[: len(prompts)], key=lambda row: row["id"]))

    metrics = known_metrics(probes, rows[len(prompts) :], params.answer_reading)
    uncertainty = [row["uncertainty"] for row in rows[: len(prompts)]]
    metrics["prompts"], metrics["dropped_overlong"] = len(prompts), len(everything) - len(prompts)
    metrics["saturated"] = round(float(np.mean([value in (0.0, 1.0) for value in uncertainty])), 4)
    metrics["mean_uncertainty"] = round(float(np.mean(uncertainty)), 4)
    write_json(f"metrics/uncertainty/round{args.round}.json", {"uncertainty": {f"round{args.round}": metrics}})
    say(f"round {args.round}: {len(prompts)} prompts, AUROC of the combined uncertainty {metrics['auroc']['combined']}")


def scored_rows(prompts: list[dict], measured: Measured, calibration: dict, params: ScoreUncertaintyParams) -> list[dict]:
    """One row a prompt: responses, scores, raw parts, and uncertainty and regret on the frozen scales."""
    deviation = np.array(calibration["deviation"])
    parts = measured.parts(deviation, params.samples_per_prompt)
    uncertainty = combined(parts, calibration, params.weights())
    regrets = measured.regrets(deviation, params.regret_penalty, params.samples_per_prompt)
    rows = []
    for index, prompt in enumerate(prompts):
        greedy_scores, sample_scores = measured.greedy_scores[:, index], measured.sample_scores[:, index]
        samples = [
            {
                **response.row(),
                "scores": sample_scores[:, number].tolist(),
                "entropy_rank": float(ecdf(calibration["parts"]["token_entropy"], [response.entropy])[0]),
            }
            for number, response in enumerate(measured.samples[index])
        ]
        rows.append(
            {
                "id": prompt["id"],
                "prompt": prompt["prompt"],
                "prompt_ids": measured.prompt_ids[index],
                "uncertainty": float(uncertainty[index]),
                "parts": {name: float(values[index]) for name, values in parts.items()},
                "sample_regret": float(regrets[index]),
                "greedy": {**measured.greedy[index].row(), "scores": greedy_scores.tolist()},
                "samples": samples,
            }
        )
    return rows


def known_metrics(probes: list[dict], rows: list[dict], reading: str) -> dict:
    """AUROC of every signal for the greedy response being wrong, where it is known; else None."""
    correct = correctness(probes, [row["greedy"]["text"] for row in rows], reading)
    known = [index for index, value in enumerate(correct) if value is not None]
    wrong = np.array([not correct[index] for index in known], dtype=bool)
    signals = {name: [rows[index]["parts"][name] for index in known] for name in (rows[0]["parts"] if rows else {})}
    signals["combined"] = [rows[index]["uncertainty"] for index in known]
    signals["regret"] = [rows[index]["sample_regret"] for index in known]
    areas = {name: auroc(wrong, np.array(values)) if known else None for name, values in signals.items()}
    sampled = [correctness([probes[i]] * len(rows[i]["samples"]), [s["text"] for s in rows[i]["samples"]], reading) for i in known]
    return {
        "auroc": {name: None if area is None else round(area, 4) for name, area in areas.items()},
        "exact_match": round(float(1 - wrong.mean()), 4) if known else None,
        "sampled_accuracy": round(float(np.mean(sampled)), 4) if known else None,
        "best_of_samples": round(float(np.mean([any(row) for row in sampled])), 4) if known else None,
        "known": len(known),
    }


if __name__ == "__main__":
    run_stage(main)
