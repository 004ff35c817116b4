"""build_regret_buffer: choose the regret cases to replay and the anchors to hold on to.

    python stages/build_regret_buffer.py --round 0 --after sft

A case is a prompt whose greedy response is uncertain for its round or clearly worse than a known one.
Where a known response is better, it becomes chosen and the greedy one rejected; where the greedy response
of an uncertain prompt stands, it is chosen over a sample that is clearly worse. Anchors are round 0's
prompts with neither, each with one sample of the SFT policy. Both carry token ids and the SFT policy's
per-token log-probs, so that the update needs no second model. Cases whose regret has closed are retired.
The cases that the calibration prompts would give by the same rules say how often a chosen response is right
at each uncertainty: `chosen_right` of every case, by which the update weighs it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from anchora.model.batches import row_length
from anchora.model.capabilities import can_share_prompts, check_head
from anchora.model.loading import load_policy
from anchora.model.logps import response_logps
from anchora.model.machine import autocast, training_dtype, use_machine
from anchora.model.pins import from_folder
from anchora.model.prompts import encode_response, token_texts
from anchora.regret.buffer import buffer_line, response_names
from anchora.regret.cases import chances_right, chosen_right, select, uncertainty_gate
from anchora.regret.params import BuildRegretBufferParams
from anchora.regret.regret import priorities
from anchora.run.errors import UserError
from anchora.run.files import read_json, read_jsonl, write_json, write_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.sampling.responses import end_tokens
from anchora.uncertainty.scale import auroc
from anchora.verifiers.ensemble import ensemble_members, score_ensemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--after", required=True, help="sft, or round<k> whose buffer this one follows")
    args = parser.parse_args()
    params = read_params(BuildRegretBufferParams)
    log_params(params)
    use_machine(params)

    rows = read_jsonl(f"data/responses/round{args.round}.jsonl")
    probes = read_jsonl(f"data/responses/calibration_round{args.round}.jsonl")
    before = read_jsonl(f"data/regret_buffer/{args.after}.jsonl")
    calibration = read_json(Path(params.output_dir) / "calibration.json")
    number_format = training_dtype(params.use_bf16, params.lora_rank)  # that of update_policy
    reference, tokenizer = load_policy(from_folder(Path(params.output_dir) / "sft"), params, number_format)
    with autocast(params.use_bf16):
        check_head(reference, tokenizer.pad_token_id)

    first_round = args.after == "sft"
    references = known_before(rows, before, tokenizer, params) if first_round else [row for row in before if row["kind"] == "known"]
    known: dict[str, list[dict]] = {}
    for row in references + known_in_buffer(before):
        known.setdefault(row["id"], []).append(row)
    gate = uncertainty_gate([row["uncertainty"] for row in rows], params.uncertainty_quantile)
    measuring = {row["id"] for row in before if row.get("kind") == "anchor" and row["held_out"]}  # the KL; never trained on
    cases, anchors, counts = select([row for row in rows if row["id"] not in measuring], known, gate, calibration, params, args.round)
    old_cases = [row for row in before if row.get("kind") == "case"]
    open_ids = {case["id"] for case in cases}
    counts["retired"] = sum(case["id"] not in open_ids for case in old_cases)
    if not first_round:
        anchors = [row for row in before if row["kind"] == "anchor"]
    cases = by_priority(cases, params)
    if not cases:
        raise UserError(
            f"round {args.round}: no regret case is left out of {len(rows)} prompts ({dict(counts)}); lower regret_threshold or "
            "uncertainty_quantile, raise chosen_uncertainty_cap where chosen_too_uncertain is many, or use fewer rounds"
        )
    rehearsed, _, _ = select(probes, {}, gate, calibration, params, args.round)
    right = chosen_right(rehearsed, probes, params.answer_reading)
    for case, chance in zip(cases, chances_right(cases, rehearsed, right), strict=True):
        case["chosen_right"] = chance
        case["rejected"]["pieces"] = token_texts(tokenizer, case["rejected"]["ids"])
    end_by_token([case["chosen"] for case in cases], end_tokens(reference, tokenizer), tokenizer)
    with autocast(params.use_bf16):
        add_reference_logps(cases + anchors, reference, tokenizer, params)
    everything = sorted(cases + anchors + references, key=lambda row: (row["kind"], row["id"]))
    write_jsonl(f"data/regret_buffer/round{args.round}.jsonl", everything)

    metrics = {"anchors": len(anchors), **case_figures(cases, counts), **rehearsed_figures(rehearsed, right)}
    write_json(f"metrics/regret/round{args.round}.json", {"regret": {f"round{args.round}": metrics}})
    say(f"round {args.round}: {len(cases)} regret cases, {len(anchors)} anchors, {counts['retired']} retired")


def case_figures(cases: list[dict], counts: Counter) -> dict:
    """How many cases there are, from what, and their means."""
    chances = [case["chosen_right"] for case in cases if case["chosen_right"] is not None]
    return {
        "cases": len(cases),
        **{name: counts[name] for name in ("from_uncertainty", "from_uncertainty_alone", "from_low_score", "retired")},
        "by_source": dict(sorted(Counter(case["source"] for case in cases).items())),
        "left_out": {name: counts[name] for name in ("no_better_response", "same_answer", "chosen_too_uncertain", "no_worse_sample")},
        "mean_regret": round(float(np.mean([case["regret"] for case in cases])), 4),
        "mean_uncertainty": round(float(np.mean([case["uncertainty"] for case in cases])), 4),
        "mean_chosen_right": round(float(np.mean(chances)), 4) if chances else None,
    }


def rehearsed_figures(rehearsed: list[dict], right: list[bool | None]) -> dict:
    """Of the cases that prompts with known answers gave: how many, how often chosen was right, AUROC of uncertainty for it being wrong."""
    known = [(case["uncertainty"], is_right) for case, is_right in zip(rehearsed, right, strict=True) if is_right is not None]
    area = auroc(np.array([not is_right for _, is_right in known]), np.array([uncertainty for uncertainty, _ in known])) if known else None
    return {
        "rehearsed": len(known),
        "rehearsed_right": round(float(np.mean([is_right for _, is_right in known])), 4) if known else None,
        "rehearsed_auroc": None if area is None else round(area, 4),
    }


def known_before(rows: list[dict], before: list[dict], tokenizer, params) -> list[dict]:
    """References and preferred responses of this round's prompts, scored by the ensemble; too long ones are left out."""
    prompts = {row["id"]: row for row in rows}
    wanted = [{**row, "ids": encode_response(tokenizer, row["response"])} for row in before if row["id"] in prompts]
    wanted = [row for row in wanted if len(prompts[row["id"]]["prompt_ids"]) + len(row["ids"]) <= params.max_length]
    if not wanted:
        return []
    scores = score_ensemble(
        ensemble_members(params.output_dir, params.verifiers),
        [(prompts[row["id"]]["prompt"], row["response"]) for row in wanted],
        params,
    )
    return [
        {
            "id": row["id"], "kind": "known", "source": row["from"], "text": row["response"], "ids": row["ids"],
            "finished": True, "scores": scores[:, index].tolist(), "entropy_rank": 0.0,
        }
        for index, row in enumerate(wanted)
    ]  # fmt: skip


def known_in_buffer(before: list[dict]) -> list[dict]:
    """The chosen responses of the cases that the buffer of the round before holds."""
    return [{**row["chosen"], "id": row["id"], "source": "buffer"} for row in before if row.get("kind") == "case"]


def by_priority(cases: list[dict], params) -> list[dict]:
    """Cases with their replay probability; those of least regret are evicted beyond ``buffer_size``."""
    cases = sorted(cases, key=lambda row: (-row["regret"], row["id"]))[: params.buffer_size]
    chances = priorities(np.array([row["regret"] for row in cases]), params.replay_alpha) if cases else np.array([])
    return [{**row, "priority": float(chance)} for row, chance in zip(cases, chances, strict=True)]


def end_by_token(responses: list[dict], ends: list[int], tokenizer) -> None:
    """Let responses that a stop string ended end by the EOS token: the policy shall learn to stop, not to write the stop string.

    Not for anchors: the KL is measured on what the SFT policy sampled, to which such an EOS may be as good as impossible.
    """
    for response in responses:
        if response["finished"] and response["ids"][-1] not in ends:
            response["ids"] = encode_response(tokenizer, response["text"])


def add_reference_logps(rows: list[dict], reference, tokenizer, params) -> None:
    """Put the SFT policy's per-token log-probs beside the responses of every row that has none yet.

    Chosen and rejected stand in one line as in the update, so that both round alike.
    """
    missing = [row for row in rows if any("reference_logps" not in row[name] for name in response_names(row))]
    lines = [buffer_line(row) for row in missing]
    shared = can_share_prompts(reference, tokenizer.pad_token_id, max((row_length(line, True) for line in lines), default=0))
    values = response_logps(reference, lines, tokenizer.pad_token_id, params.scoring_batch_tokens, shared)
    for row, logps in zip(missing, values, strict=True):
        for name, of_response in zip(response_names(row), logps, strict=True):
            row[name]["reference_logps"] = of_response


if __name__ == "__main__":
    run_stage(main)
