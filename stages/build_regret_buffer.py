"""build_regret_buffer: choose the regret cases to replay and the anchors to hold on to.

    python stages/build_regret_buffer.py --round 0 --after sft

A case is a prompt whose greedy response is uncertain for its round or clearly worse than a known one.
Where a known response is better, it becomes chosen and the greedy one rejected; where the greedy response
of an uncertain prompt stands, it is chosen over a sample that is clearly worse. Anchors are round 0's
prompts with neither, each with one sample of the SFT policy. Both carry token ids and the SFT policy's
per-token log-probs, so that the update needs no second model. Cases whose regret has closed are retired.
The cases that the calibration prompts would give by the same rules say how often a chosen response is right
at each uncertainty: `chosen_right` of every case, by which the update weighs it. Writes
data/regret_buffer/round<k>.jsonl, whose rows anchora/regret/buffer.py describes, and metrics/regret/round<k>.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from anchora.model.adapters import policy_from_folder
from anchora.model.capabilities import check_head
from anchora.model.loading import end_tokens, load_policy
from anchora.model.logps import response_logps
from anchora.model.machine import autocast, training_dtype, use_machine
from anchora.model.prompts import encode_response, opens_thought, token_texts
from anchora.model.thinking import thought_before, without_thinking
from anchora.regret.batches import layout_for
from anchora.regret.buffer import Anchor, Buffer, Case, Chosen, Known, buffer_line, read_buffer, responses_of, write_buffer
from anchora.regret.cases import Candidate, candidate, select, selection_rules
from anchora.regret.chosen_right import chosen_correctness, chosen_right_probabilities
from anchora.regret.params import BuildRegretBufferParams
from anchora.regret.replay import replay_weights
from anchora.regret.responses import ScoredPrompt, read_scored_prompts
from anchora.run.errors import UserError
from anchora.run.files import read_json, read_jsonl, write_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.uncertainty.reliability import auroc
from anchora.verifiers.ensemble import ensemble_members, score_ensemble
from anchora.verifiers.scores import as_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--after", required=True, help="sft, or round<k> whose buffer this one follows")
    args = parser.parse_args()
    params = read_params(BuildRegretBufferParams)
    log_params(params)
    use_machine(params)

    prompts = read_scored_prompts(f"data/responses/round{args.round}.jsonl")
    calibration_prompts = read_scored_prompts(f"data/responses/calibration_round{args.round}.jsonl")
    calibration = read_json(Path(params.output_dir) / "calibration.json")
    number_format = training_dtype(params.use_bf16, params.lora_rank)  # that of update_policy
    reference, tokenizer = load_policy(policy_from_folder(Path(params.output_dir) / "sft", params.output_dir), params, number_format)
    with autocast(params.use_bf16):
        check_head(reference, tokenizer.pad_token_id)

    previous = previous_buffer(args.after, prompts, tokenizer, params)
    rules = selection_rules(prompts, np.array(calibration["deviation"]), params)
    cases, anchors, counts = select(not_held_out(prompts, previous), known_responses(previous), rules, args.round)
    open_ids = {case["id"] for case in cases}
    counts["retired"] = sum(case["id"] not in open_ids for case in previous.cases)
    counts["evicted"] = max(0, len(cases) - params.buffer_size)
    cases = by_priority(cases, params)
    anchors = anchors if args.after == "sft" else previous.anchors
    check_enough(cases, anchors, len(prompts), counts, args.round)
    calibration_cases, _, _ = select(calibration_prompts, {}, rules, args.round)
    calibration_correct = chosen_correctness(calibration_cases, calibration_prompts, params.answer_reading)
    probabilities = chosen_right_probabilities(cases, calibration_cases, calibration_correct)
    for case, probability in zip(cases, probabilities, strict=True):
        case["chosen_right"] = probability
        case["rejected"]["pieces"] = token_texts(tokenizer, case["rejected"]["ids"])
    end_by_token([case["chosen"] for case in cases], end_tokens(reference, tokenizer), tokenizer)
    with autocast(params.use_bf16):
        add_reference_logps([*cases, *anchors], reference, tokenizer, params)
    write_buffer(f"data/regret_buffer/round{args.round}.jsonl", Buffer(cases, anchors, previous.known))

    metrics = {"anchors": len(anchors), **case_figures(cases, counts), **calibration_figures(calibration_cases, calibration_correct)}
    write_json(f"metrics/regret/round{args.round}.json", {"regret": {f"round{args.round}": metrics}})
    evicted = f" of {len(cases) + counts['evicted']} found (buffer_size)" if counts["evicted"] else ""
    say(f"round {args.round}: {len(cases)} regret cases{evicted}, {len(anchors)} anchors, {counts['retired']} retired")


def previous_buffer(after: str, prompts: Sequence[ScoredPrompt], tokenizer, params: BuildRegretBufferParams) -> Buffer:
    """Return the buffer of the round before; before round 0 it holds the responses that came with the data, and nothing else."""
    path = f"data/regret_buffer/{after}.jsonl"
    return Buffer(known=scored_known(read_jsonl(path), prompts, tokenizer, params)) if after == "sft" else read_buffer(path)


def scored_known(responses: Sequence[dict], prompts: Sequence[ScoredPrompt], tokenizer, params: BuildRegretBufferParams) -> list[Known]:
    """Score the responses that came with the data to this round's prompts; too long ones are left out.

    ``responses`` are prepare_data's rows: ``id`` of a prompt, ``response`` and ``from``, reference or preferred.
    """
    by_id = {prompt["id"]: prompt for prompt in prompts}
    rows = [row for row in responses if row["id"] in by_id]
    begun = {row["id"]: opens_thought(tokenizer, by_id[row["id"]]["prompt_ids"]) for row in rows}
    rows = [{**row, "ids": encode_response(tokenizer, without_thinking(row["response"], begun[row["id"]]))} for row in rows]
    fitting = [row for row in rows if len(by_id[row["id"]]["prompt_ids"]) + len(row["ids"]) <= params.max_length]
    if len(fitting) < len(rows):
        say(f"{len(rows) - len(fitting)} of {len(rows)} responses that came with the data are left out: longer than max_length")
    if not (rows := fitting):
        return []
    members = ensemble_members(params.output_dir, params)
    of_rows = [by_id[row["id"]] for row in rows]
    pairs = [(prompt["prompt"], row["response"]) for prompt, row in zip(of_rows, rows, strict=True)]
    scores = score_ensemble(members, pairs, params, of_rows)  # (members, rows)
    return [
        {
            "id": row["id"], "kind": "known", "source": row["from"], "text": row["response"], "ids": row["ids"],
            "finished": True, "scores": as_json(scores[:, index]), "entropy_rank": 0.0,
        }
        for index, row in enumerate(rows)
    ]  # fmt: skip


def check_enough(cases: Sequence[Case], anchors: Sequence[Anchor], prompts: int, counts: Counter[str], round_number: int) -> None:
    """Raise UserError where a round has nothing to learn from, or the buffer too few anchors for an update."""
    if not cases:
        raise UserError(
            f"round {round_number}: no regret case is left out of {prompts} prompts ({dict(counts)}); lower regret_threshold or "
            "uncertainty_quantile, raise chosen_uncertainty_cap where chosen_too_uncertain is many, or use fewer rounds"
        )
    if len(anchors) < 2:
        raise UserError(
            f"round {round_number}: {len(anchors)} of {prompts} prompts are neither uncertain nor of regret, and it takes two anchors: "
            "one to rehearse, and one to measure the KL on; raise uncertainty_quantile or regret_threshold, or add regret prompts"
        )


def not_held_out(prompts: Sequence[ScoredPrompt], previous: Buffer) -> list[ScoredPrompt]:
    """Return the prompts but those of held-out anchors, which measure the KL and are never trained on."""
    held_out = {anchor["id"] for anchor in previous.anchors if anchor["held_out"]}
    return [prompt for prompt in prompts if prompt["id"] not in held_out]


def known_responses(previous: Buffer) -> dict[str, list[Candidate]]:
    """Return the candidates that a buffer brings, by prompt id: responses from the data, then what its cases chose."""
    candidates: dict[str, list[Candidate]] = {}
    for known in previous.known:
        candidates.setdefault(known["id"], []).append(candidate(known, known["source"]))
    for case in previous.cases:
        candidates.setdefault(case["id"], []).append(candidate(case["chosen"], "buffer"))
    return candidates


def by_priority(cases: list[Case], params: BuildRegretBufferParams) -> list[Case]:
    """Return the cases with their replay probability, the highest first; beyond ``buffer_size`` the least are evicted.

    Of equal ones the larger regret stands first.
    """
    cases = sorted(cases, key=lambda case: (-case["regret"], case["id"]))
    weights = replay_weights(cases, params.replay)
    kept = np.argsort(-weights, kind="stable")[: params.buffer_size]
    return [{**cases[int(i)], "priority": float(weights[i] / weights[kept].sum())} for i in kept]


def end_by_token(responses: Sequence[Chosen], ends: Set[int], tokenizer) -> None:
    """Let responses that a stop string ended end by the EOS token: the policy shall learn to stop, not to write the stop string.

    Not for anchors: the KL is measured on what the SFT policy sampled, to which such an EOS may be as good as impossible.
    What was thought before the answer stays.
    """
    for response in responses:
        if response["finished"] and response["ids"][-1] not in ends:
            whole = tokenizer.decode(response["ids"], skip_special_tokens=True)
            response["ids"] = encode_response(tokenizer, thought_before(whole, response["text"]) + response["text"])


def add_reference_logps(rows: Sequence[Case | Anchor], reference, tokenizer, params: BuildRegretBufferParams) -> None:
    """Put the SFT policy's per-token log-probs beside the responses of every row that has none yet.

    Chosen and rejected stand in one line as in the update, so that both round alike. Scores of the responses that came with the data
    choose the rows, and a run that was killed may go on with others: a judge that replies at last, a function that was edited.
    """
    rows = [row for row in rows if any("reference_logps" not in response for response in responses_of(row))]
    layout = layout_for(reference, tokenizer.pad_token_id, rows, params.scoring_batch_tokens)
    lines = [buffer_line(row) for row in rows]
    key = f"reference-{hashlib.sha256(json.dumps(lines).encode()).hexdigest()}"
    logps = response_logps(reference, lines, layout.pad_token_id, layout.budget, layout.shared, key)
    for row, row_logps in zip(rows, logps, strict=True):
        for response, response_logp in zip(responses_of(row), row_logps, strict=True):
            response["reference_logps"] = response_logp


def case_figures(cases: Sequence[Case], counts: Counter[str]) -> dict:
    """Return how many cases there are, of those that were found from what, and the means of those that are kept."""
    probabilities = [case["chosen_right"] for case in cases if case["chosen_right"] is not None]
    return {
        "cases": len(cases),
        **{name: counts[name] for name in ("from_uncertainty", "from_uncertainty_alone", "from_low_score", "evicted", "retired")},
        "by_source": dict(sorted(Counter(case["source"] for case in cases).items())),
        "left_out": {
            name: counts[name] for name in ("no_better_response", "same_answer", "chosen_too_uncertain", "no_worse_sample", "hardest")
        },
        "mean_regret": round(float(np.mean([case["regret"] for case in cases])), 4),
        "mean_uncertainty": round(float(np.mean([case["uncertainty"] for case in cases])), 4),
        "mean_chosen_right": round(float(np.mean(probabilities)), 4) if probabilities else None,
    }


def calibration_figures(cases: Sequence[Case], correct: Sequence[bool | None]) -> dict:
    """Return how many cases of the calibration prompts have known answers, how often chosen is right there, and the AUROC of their
    uncertainty for chosen being wrong. The metrics call them rehearsed.
    """
    answered = [(case["uncertainty"], right) for case, right in zip(cases, correct, strict=True) if right is not None]
    wrong, uncertainty = np.array([not right for _, right in answered]), np.array([value for value, _ in answered])
    area = auroc(wrong, uncertainty) if answered else None
    return {
        "rehearsed": len(answered),
        "rehearsed_right": round(float(np.mean([right for _, right in answered])), 4) if answered else None,
        "rehearsed_auroc": None if area is None else round(area, 4),
    }


if __name__ == "__main__":
    run_stage(main)
