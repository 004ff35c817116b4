"""Which prompts become regret cases and which anchors, and how likely the response that a case chooses is right."""

from __future__ import annotations

from collections import Counter

import numpy as np

from anchora.correctness.numbers import READINGS, anchored_number, last_number
from anchora.correctness.references import correctness
from anchora.data.splits import split_share
from anchora.regret.regret import conservative_gains, regret
from anchora.uncertainty.reliability import MIN_LABELLED, fit_correctness

HELD_OUT_ANCHORS = 0.2  # share of the anchors that only measure the KL
LEAST_CHANCE = 0.05  # a handful of cases cannot show that a chosen response is never right
CLOSING_WORDS = 3  # "... is 12 apples altogether." still closes with its number
GIVEN = ("reference", "preferred")  # sources of responses that came with the data


def uncertainty_gate(uncertainties: list[float], quantile: float) -> float:
    """The uncertainty above which prompts are uncertain for their round: a quantile of it; a quantile of 1 leaves none uncertain.

    Prompts unlike the calibration split may stand at the upper end of its scale in such number that the quantile does, too:
    then all of those are uncertain.
    """
    gate, highest = float(np.quantile(uncertainties, quantile)), max(uncertainties)
    lower = [value for value in uncertainties if value < highest]
    return max(lower) if quantile < 1 and gate == highest and lower else gate


def select(rows, known, gate: float, calibration, params, number: int) -> tuple[list[dict], list[dict], Counter]:
    """Cases and anchors among the prompts of a round, without log-probs yet, and counts of the reasons.

    ``known`` holds the responses beside the samples by prompt id; prompts above ``gate`` are uncertain.
    """
    cases, anchors, counts = [], [], Counter[str]()
    for row in rows:
        greedy = {**row["greedy"], "source": "greedy"}
        candidates = [{**sample, "source": "sample"} for sample in row["samples"]] + known.get(row["id"], [])
        gains = gains_over(candidates, greedy, calibration, params)
        uncertain, low_score = row["uncertainty"] > gate, regret(gains) > params.regret_threshold
        if not uncertain and not low_score:
            anchors.append({**anchor_fields(row, number), "response": response_fields(row["samples"][0])})
            continue
        chosen, gain, reason = best_candidate(candidates, gains, greedy, params)
        rejected: dict | None = greedy
        if chosen is None and uncertain:
            chosen, gain, rejected, reason = greedy_over_sample(row["samples"], greedy, calibration, params)
        if chosen is None or rejected is None:
            counts[reason] += 1
            continue
        counts["from_uncertainty"] += uncertain
        counts["from_uncertainty_alone"] += uncertain and not low_score
        counts["from_low_score"] += low_score
        cases.append(
            {
                **anchor_fields(row, number),
                "kind": "case",
                "parts": row["parts"],
                "regret": gain,
                "source": chosen["source"],
                "chosen": {**response_fields(chosen), "scores": chosen["scores"], "entropy_rank": chosen["entropy_rank"]},
                "rejected": {**response_fields(rejected), "scores": rejected["scores"], "entropies": rejected["entropies"]},
            }
        )
    anchors = sorted(anchors, key=lambda row: split_share(row["id"], "anchor"))[: params.anchor_count]
    if len(anchors) > 1 and len({row["held_out"] for row in anchors}) == 1:  # some must be trained on, and some measure the KL
        anchors[0]["held_out"] = not anchors[0]["held_out"]
    return cases, anchors, counts


def gains_over(responses: list[dict], other: dict, calibration: dict, params) -> np.ndarray:
    """Conservative gain of each of ``responses`` over ``other``, (responses,)."""
    scores = np.array([response["scores"] for response in responses]).T  # (members, responses)
    return conservative_gains(scores, np.array(other["scores"]), np.array(calibration["deviation"]), params.regret_penalty)


def best_candidate(candidates, gains, greedy, params) -> tuple[dict | None, float, str]:
    """The known response of highest gain that may be chosen over the greedy one, and its gain; or None, and the reason."""
    reason = "no_better_response"
    for index in np.argsort(-gains, kind="stable"):
        if gains[index] <= params.chosen_margin:
            break
        candidate = candidates[index]
        if candidate["entropy_rank"] > params.chosen_uncertainty_cap:
            reason = "chosen_too_uncertain"
        elif same_in_substance(candidate["text"], greedy["text"], params.answer_reading):
            reason = "same_answer"
        else:
            return candidate, float(gains[index]), ""
    return None, 0.0, reason


def greedy_over_sample(samples, greedy, calibration, params) -> tuple[dict | None, float, dict | None, str]:
    """The greedy response of an uncertain prompt as chosen over the first of the samples that is clearly worse.

    Where greedy decoding is right, its worse mode is still what sampling meets. The first sample that is
    worse, not the worst, because it is drawn as users draw it: what is unlikely anyway need not be pushed
    down. Returns chosen, its gain, rejected, and the reason where there is no such pair.
    """
    if greedy["entropy_rank"] > params.chosen_uncertainty_cap:
        return None, 0.0, None, "chosen_too_uncertain"
    reason = "no_worse_sample"
    for sample in samples:
        (gain,) = gains_over([greedy], sample, calibration, params)
        if gain > params.regret_threshold:
            if not same_in_substance(sample["text"], greedy["text"], params.answer_reading):
                return greedy, float(gain), sample, ""
            reason = "same_answer"
    return None, 0.0, None, reason


def same_in_substance(first: str, second: str, reading: str) -> bool:
    """Whether two responses are the same text or give the same answer, read as ``READINGS`` say.

    The last number of a text is its answer only where it is marked as such or the text closes with it: a year or
    the number of a list's item, somewhere in both, does not make two texts the same.
    """
    if first.strip() == second.strip():
        return True
    if not all(reading == "anchored" or closes_with_number(text) for text in (first, second)):
        return False
    number = READINGS[reading](first)
    return number is not None and number == READINGS[reading](second)


def closes_with_number(text: str) -> bool:
    """Whether a number is marked as the answer of ``text``, or stands among its last words."""
    return anchored_number(text) is not None or last_number(" ".join(text.split()[-CLOSING_WORDS:])) is not None


def anchor_fields(row: dict, number: int) -> dict:
    held_out = split_share(row["id"], "drift") < HELD_OUT_ANCHORS
    return {
        "id": row["id"], "kind": "anchor", "round": number, "held_out": held_out, "prompt": row["prompt"],
        "prompt_ids": row["prompt_ids"], "uncertainty": row["uncertainty"],
    }  # fmt: skip


def response_fields(response: dict) -> dict:
    return {"text": response["text"], "ids": response["ids"], "finished": response["finished"]}


def chosen_right(cases: list[dict], prompts: list[dict], reading: str) -> list[bool | None]:
    """Whether the chosen response of each case is right, by the reference of its prompt; None where that gives no answer."""
    by_id = {row["id"]: row for row in prompts}
    return correctness([by_id[case["id"]] for case in cases], [case["chosen"]["text"] for case in cases], reading)


def chances_right(cases: list[dict], rehearsed: list[dict], right: list[bool | None]) -> list[float | None]:
    """The probability that the chosen response of each case is right, by its uncertainty; None where too little is known.

    ``rehearsed`` are the cases that prompts with known answers gave by the same rules, ``right`` whether
    their chosen responses are. Cases that choose the greedy response have a curve of their own where that
    rests on ``MIN_LABELLED`` of them, and so have the others; else both share one. A response that came
    with the data is taken to be right.
    """
    known = [(case, is_right) for case, is_right in zip(rehearsed, right, strict=True) if is_right is not None]
    chances = [1.0 if case["source"] in GIVEN else None for case in cases]
    for greedy in (True, False):
        wanted = [index for index, case in enumerate(cases) if chances[index] is None and (case["source"] == "greedy") == greedy]
        alike = [(case, is_right) for case, is_right in known if (case["source"] == "greedy") == greedy]
        basis = alike if len(alike) >= MIN_LABELLED else known
        if not wanted or len(basis) < MIN_LABELLED:
            continue
        curve = fit_correctness([case["uncertainty"] for case, _ in basis], [is_right for _, is_right in basis])
        for index, chance in zip(wanted, curve([cases[index]["uncertainty"] for index in wanted]), strict=True):
            chances[index] = round(max(LEAST_CHANCE, float(chance)), 6)
    return chances
