"""Which prompts of a round become regret cases, with which pair, and which become anchors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from anchora.correctness.readings import READINGS
from anchora.data.splits import split_share
from anchora.regret.buffer import Anchor, Case, Chosen, Known, Origin
from anchora.regret.params import BuildRegretBufferParams
from anchora.regret.regret import conservative_gains, regret
from anchora.regret.replay import HARDEST_SHARE, success_rate
from anchora.regret.responses import ScoredPrompt, ScoredResponse

HELD_OUT_SHARE = 0.2  # of the anchors: they only measure the KL


class Candidate(TypedDict):
    """A response that may become chosen."""

    text: str
    ids: list[int]  # (tokens,)
    finished: bool
    scores: list[float | None]  # (members,) raw, None where a member abstains
    entropy_rank: float  # in [0, 1]
    source: Origin


@dataclass(frozen=True)
class Preference:
    """A response over another one."""

    chosen: Candidate
    rejected: ScoredResponse
    gain: float  # of chosen over rejected, above 0


@dataclass(frozen=True)
class SelectionRules:
    """By what the prompts of a round become cases and anchors."""

    gate: float  # prompts of a higher uncertainty are uncertain for their round
    hardest: float  # prompts of a higher uncertainty are among the hardest of their round
    deviation: np.ndarray  # (members,) each member's typical deviation within a prompt
    params: BuildRegretBufferParams


def selection_rules(prompts: Sequence[ScoredPrompt], deviation: np.ndarray, params: BuildRegretBufferParams) -> SelectionRules:
    """Return the rules for the prompts of a round."""
    uncertainties = [prompt["uncertainty"] for prompt in prompts]
    gate, hardest = (uncertainty_gate(uncertainties, quantile) for quantile in (params.uncertainty_quantile, 1 - HARDEST_SHARE))
    return SelectionRules(gate, hardest, deviation, params)


def uncertainty_gate(uncertainties: list[float], quantile: float) -> float:
    """Return the uncertainty above which prompts are uncertain for their round: a quantile of it; a quantile of 1 leaves none uncertain.

    Prompts unlike the calibration split may stand at the upper end of its scale in such number that the quantile does, too:
    then all of those are uncertain.
    """
    gate, highest = float(np.quantile(uncertainties, quantile)), max(uncertainties)
    lower = [value for value in uncertainties if value < highest]
    return max(lower) if quantile < 1 and gate == highest and lower else gate


def select(
    prompts: Iterable[ScoredPrompt], known_responses: dict[str, list[Candidate]], rules: SelectionRules, round_number: int
) -> tuple[list[Case], list[Anchor], Counter[str]]:
    """Return the cases and the anchors among the prompts of a round, without log-probs yet, and counts of the reasons.

    ``known_responses`` holds candidates beside the samples, by prompt id.
    """
    params = rules.params
    cases: list[Case] = []
    anchors: list[Anchor] = []
    counts = Counter[str]()
    for prompt in prompts:
        samples = [candidate(sample, "sample") for sample in prompt["samples"]]
        candidates = samples + known_responses.get(prompt["id"], [])
        gains = gains_over(candidates, prompt["greedy"], rules)
        uncertain, low_score = prompt["uncertainty"] > rules.gate, regret(gains) > params.regret_threshold
        if not uncertain and not low_score:
            anchors.append(new_anchor(prompt, round_number))
            continue
        if params.replay == "drop_hardest" and is_hardest(prompt["uncertainty"], gains[: len(samples)], rules):
            counts["hardest"] += 1
            continue
        preference, reason = best_over_greedy(candidates, gains, prompt["greedy"], params)
        if preference is None and uncertain:
            preference, reason = greedy_over_sample(prompt["greedy"], prompt["samples"], rules)
        if preference is None:
            counts[reason] += 1
            continue
        counts["from_uncertainty"] += uncertain
        counts["from_uncertainty_alone"] += uncertain and not low_score
        counts["from_low_score"] += low_score
        cases.append(new_case(prompt, preference, sample_success_rate(preference, prompt["samples"], rules), round_number))
    return cases, limited(anchors, params.anchor_count), counts


def candidate(response: ScoredResponse | Known | Chosen, origin: Origin) -> Candidate:
    """Return a response as a candidate for chosen, with where it comes from."""
    return {
        "text": response["text"], "ids": response["ids"], "finished": response["finished"], "scores": response["scores"],
        "entropy_rank": response["entropy_rank"], "source": origin,
    }  # fmt: skip


def gains_over(responses: Sequence[Candidate], other: Candidate | ScoredResponse, rules: SelectionRules) -> np.ndarray:
    """Return the conservative gain of each of ``responses`` over ``other``, (responses,)."""
    params = rules.params
    scores = np.array([response["scores"] for response in responses], dtype=float).T  # (members, responses)
    return conservative_gains(scores, np.array(other["scores"], dtype=float), rules.deviation, params.regret_penalty)


def is_hardest(uncertainty: float, sample_gains: np.ndarray, rules: SelectionRules) -> bool:
    """Return whether a prompt is beyond the policy: in the top tenth of its round, and no sample clearly better than the greedy response.

    Selective DPO (arXiv 2502.09650) drops the pairs of largest loss on held-out data instead. ``sample_gains``: (samples,).
    """
    return uncertainty > rules.hardest and not (sample_gains > rules.params.chosen_margin).any()


def sample_success_rate(preference: Preference, samples: Sequence[ScoredResponse], rules: SelectionRules) -> float:
    """Return the estimated chance that a sample does as well as chosen: is not worse by more than ``regret_threshold``."""
    worse = [gains_over([preference.chosen], sample, rules)[0] > rules.params.regret_threshold for sample in samples]
    return round(success_rate(worse.count(False), len(worse)), 6)


def best_over_greedy(
    candidates: Sequence[Candidate], gains: np.ndarray, greedy: ScoredResponse, params: BuildRegretBufferParams
) -> tuple[Preference | None, str]:
    """Prefer the candidate of highest gain that may be chosen to the greedy response; or None, and the reason.

    ``gains``, (candidates,), are over the greedy response. A blank candidate, as a thought without an end leaves it, is never chosen.
    """
    reason = "no_better_response"
    for index in np.argsort(-gains, kind="stable"):
        if gains[index] <= params.chosen_margin:
            break
        chosen = candidates[index]
        if not chosen["text"].strip():
            continue
        if chosen["entropy_rank"] > params.chosen_uncertainty_cap:
            reason = "chosen_too_uncertain"
        elif same_in_substance(chosen["text"], greedy["text"], params.answer_reading):
            reason = "same_answer"
        else:
            return Preference(chosen, greedy, float(gains[index])), ""
    return None, reason


def greedy_over_sample(greedy: ScoredResponse, samples: Sequence[ScoredResponse], rules: SelectionRules) -> tuple[Preference | None, str]:
    """Prefer the greedy response of an uncertain prompt to the first sample that is clearly worse; or None, and the reason.

    Where greedy decoding is right, its worse mode is still what sampling meets. The first sample that is
    worse, not the worst, because it is drawn as users draw it: what is unlikely anyway need not be pushed
    down. A blank greedy response is never chosen.
    """
    params = rules.params
    if not greedy["text"].strip():
        return None, "no_better_response"
    if greedy["entropy_rank"] > params.chosen_uncertainty_cap:
        return None, "chosen_too_uncertain"
    chosen, reason = candidate(greedy, "greedy"), "no_worse_sample"
    for sample in samples:
        (gain,) = gains_over([chosen], sample, rules)
        if gain > params.regret_threshold:
            if not same_in_substance(sample["text"], greedy["text"], params.answer_reading):
                return Preference(chosen, sample, float(gain)), ""
            reason = "same_answer"
    return None, reason


def same_in_substance(first: str, second: str, reading: str) -> bool:
    """Return whether two responses are the same text or state the same answer, read as ``READINGS`` say."""
    return first.strip() == second.strip() or bool(READINGS[reading].agree(first, second))


def new_anchor(prompt: ScoredPrompt, round_number: int) -> Anchor:
    """Return a prompt as an anchor on its first sample; by the hash of its id some are held out."""
    sample = prompt["samples"][0]
    return {
        "id": prompt["id"], "kind": "anchor", "round": round_number, "held_out": is_held_out(prompt["id"]), "prompt": prompt["prompt"],
        "prompt_ids": prompt["prompt_ids"], "uncertainty": prompt["uncertainty"],
        "response": {"text": sample["text"], "ids": sample["ids"], "finished": sample["finished"]},
    }  # fmt: skip


def new_case(prompt: ScoredPrompt, preference: Preference, success: float, round_number: int) -> Case:
    """Return a prompt as a case that prefers one response to another; ``success`` is the chance that a sample does as well."""
    chosen, rejected = preference.chosen, preference.rejected
    return {
        "id": prompt["id"], "kind": "case", "round": round_number, "held_out": is_held_out(prompt["id"]), "prompt": prompt["prompt"],
        "prompt_ids": prompt["prompt_ids"], "uncertainty": prompt["uncertainty"], "parts": prompt["parts"],
        "regret": preference.gain, "success_rate": success, "source": chosen["source"],
        "chosen": {
            "text": chosen["text"], "ids": chosen["ids"], "finished": chosen["finished"], "scores": chosen["scores"],
            "entropy_rank": chosen["entropy_rank"],
        },
        "rejected": {
            "text": rejected["text"], "ids": rejected["ids"], "finished": rejected["finished"], "scores": rejected["scores"],
            "entropies": rejected["entropies"],
        },
    }  # fmt: skip


def is_held_out(prompt_id: str) -> bool:
    """Return whether the anchor of this prompt only measures the KL."""
    return split_share(prompt_id, "drift") < HELD_OUT_SHARE


def limited(anchors: list[Anchor], count: int) -> list[Anchor]:
    """Return ``count`` of the anchors, drawn by the hashes of their ids; of two or more some are held out, and some not."""
    anchors = sorted(anchors, key=lambda anchor: split_share(anchor["id"], "anchor"))[:count]
    if len(anchors) > 1 and len({anchor["held_out"] for anchor in anchors}) == 1:  # some must be trained on, and some measure the KL
        anchors[0]["held_out"] = not anchors[0]["held_out"]
    return anchors
