"""Ask a policy: greedy responses and samples, their entropies and scores, and what dropout changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anchora.correctness.references import correctness
from anchora.model.prompts import encode_prompt, opens_thought
from anchora.model.seeds import derived_seed
from anchora.model.thinking import is_unfinished
from anchora.run.errors import UserError, located
from anchora.run.files import read_jsonl
from anchora.run.logs import say
from anchora.sampling.responses import Request, Response
from anchora.sampling.sampler import sample_responses
from anchora.uncertainty.agreement import sample_disagreement
from anchora.uncertainty.dropout import dropout_information
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.regenerate import regenerated_disagreement
from anchora.verifiers.ensemble import Member, count_reward_models, score_ensemble
from anchora.verifiers.scores import as_json


@dataclass(frozen=True)
class Measured:
    """What a policy answered to n prompts; scores are raw, of each member of the ensemble, nan where it abstains."""

    prompt_ids: list[list[int]]
    greedy: list[Response]
    samples: list[list[Response]]
    token_entropy: np.ndarray  # (prompts,) of the greedy responses, nats a token
    mc_dropout: np.ndarray | None  # (prompts,) of the greedy responses, nats a token; or one minus the agreement; None without dropout
    sample_agreement: np.ndarray  # (prompts,) one minus the agreement of the first samples_per_prompt samples with the greedy response
    greedy_scores: np.ndarray  # (members, prompts)
    sample_scores: np.ndarray  # (members, prompts, samples)
    reward_models: int  # of the members, the first ones


def within_length(tokenizer, rows: list[dict], params: MeasureParams) -> list[dict]:
    """Return the rows whose ``prompt`` leaves room for a response; print how many do not.

    Raises UserError naming the first longer one, unless ``overlong_prompts`` is drop; and where none is left.
    """
    kept, room = [], params.room()
    for row in rows:
        with located(row["source"]):
            length = len(encode_prompt(tokenizer, row["prompt"], params.prompt_template, params.enable_thinking))
        if length <= room:
            kept.append(row)
        elif params.overlong_prompts == "error":
            raise UserError(
                f"{row['source']}: field 'prompt': {length} tokens, more than max_length - max_new_tokens = {room}; raise "
                "max_length, or set overlong_prompts to drop"
            )
    if rows and not kept:
        raise UserError(f"{rows[0]['source']} and all after it: prompts longer than max_length - max_new_tokens = {room} tokens")
    if len(kept) < len(rows):
        say(f"{rows[0]['source'].rsplit(':', 1)[0]}: {len(rows) - len(kept)} of {len(rows)} prompts dropped, longer than {room} tokens")
    return kept


def measure(
    model, tokenizer, rows: Sequence[Mapping], members: Sequence[Member], params: MeasureParams,
    *, seed: int, samples: int,
) -> Measured:  # fmt: skip
    """Draw a greedy response and ``samples`` samples for each row's ``prompt``, seeded by ``seed``, and let ``members`` score all of them.

    Scoring functions read the rows' ``columns``. Prints how many responses are blank because they never stopped thinking.
    """
    prompts = [row["prompt"] for row in rows]
    prompt_ids = [encode_prompt(tokenizer, prompt, params.prompt_template, params.enable_thinking) for prompt in prompts]
    request = Request("responses", prompt_ids, samples, params.temperature, params.top_p, greedy_first=True)
    (responses,) = sample_responses(model, tokenizer, [request], params, derived_seed(seed, "responses"))
    _say_unfinished(tokenizer, prompt_ids, responses, params)
    greedy, sampled = [first for first, *_ in responses], [others for _, *others in responses]
    mc_dropout = _mc_dropout(model, tokenizer, prompt_ids, greedy, params, derived_seed(seed, "dropout"))
    pairs = [(prompt, response.text) for prompt, response in zip(prompts, greedy, strict=True)]
    pairs += [(prompt, response.text) for prompt, responses in zip(prompts, sampled, strict=True) for response in responses]
    scores = score_ensemble(members, pairs, params, [*rows, *(row for row in rows for _ in range(samples))])
    return Measured(
        prompt_ids=prompt_ids,
        greedy=greedy,
        samples=sampled,
        token_entropy=np.array([response.entropy for response in greedy]),
        mc_dropout=None if mc_dropout is None else np.array(mc_dropout),
        sample_agreement=np.array(_sample_disagreements(greedy, sampled, params)),
        greedy_scores=scores[:, : len(prompts)],
        sample_scores=scores[:, len(prompts) :].reshape(len(scores), len(prompts), samples),
        reward_models=count_reward_models(members),
    )


def _say_unfinished(tokenizer, prompt_ids: list[list[int]], responses: list[list[Response]], params: MeasureParams) -> None:
    blank = [
        is_unfinished(tokenizer.decode(response.ids, skip_special_tokens=True), opens_thought(tokenizer, prompt))
        for prompt, of_prompt in zip(prompt_ids, responses, strict=True)
        for response in of_prompt
        if not response.text.strip()
    ]
    if any(blank):
        count, total = sum(blank), sum(map(len, responses))
        say(
            f"{count} of {total} responses ({count / total:.1%}) are blank: their thought did not end; raise max_new_tokens "
            f"(now {params.max_new_tokens}), and take care that no stop string stands in thoughts"
        )


def _mc_dropout(model, tokenizer, prompt_ids, greedy: list[Response], params: MeasureParams, seed: int) -> list[float] | None:
    """Return the raw part ``mc_dropout`` of each greedy response, in the way that ``uncertainty_dropout_mode`` names, if there is one."""
    if not params.has_mc_dropout():
        return None
    if params.uncertainty_dropout_mode == "regenerate":
        return regenerated_disagreement(model, tokenizer, prompt_ids, params, seed)
    return dropout_information(
        model,
        [(ids, response.ids) for ids, response in zip(prompt_ids, greedy, strict=True)],
        copies=params.uncertainty_dropout_samples,
        rate=params.uncertainty_dropout_rate,
        layer_share=params.uncertainty_dropout_layers,
        seed=seed,
        pad_token_id=tokenizer.pad_token_id,
        budget=params.scoring_batch_tokens,
    )


def _sample_disagreements(greedy: list[Response], sampled: list[list[Response]], params: MeasureParams) -> list[float]:
    """Return the raw part ``sample_agreement`` of each greedy response, of as many samples wherever it is measured."""
    return [
        sample_disagreement(response.text, [sample.text for sample in samples[: params.samples_per_prompt]], params.answer_reading)
        for response, samples in zip(greedy, sampled, strict=True)
    ]


def measure_calibration(
    model, tokenizer, members: Sequence[Member], params: MeasureParams
) -> tuple[list[dict], Measured, list[bool | None]]:
    """Ask a policy the calibration split, with the seed and the samples on which the scale rests.

    Returns the rows, what was measured, and whether each greedy response is right; None where the row's answer is not known.
    """
    rows = within_length(tokenizer, read_jsonl("data/prepared/calibration.jsonl"), params)
    measured = measure(
        model, tokenizer, rows, members, params,
        seed=derived_seed(params.seed, "calibration"), samples=params.samples_per_prompt,
    )  # fmt: skip
    return rows, measured, correctness(rows, [response.text for response in measured.greedy], params.answer_reading)


def measured_rows(
    prompts: Sequence[dict], measured: Measured, parts: dict[str, np.ndarray], entropy_ranks: Callable[[list[float]], np.ndarray]
) -> list[dict]:
    """Make one row for each of ``prompts``, in their order: responses with their scores, and the raw ``parts``, (prompts,) each.

    ``entropy_ranks`` gives the ranks of responses' mean entropies. A calibration prompt keeps its field ``reference``.
    """
    rows = []
    for index, prompt in enumerate(prompts):
        responses = [measured.greedy[index], *measured.samples[index]]
        scores = [measured.greedy_scores[:, index], *measured.sample_scores[:, index].T]
        ranks = entropy_ranks([response.entropy for response in responses])
        greedy, *samples = (
            {**response.row(), "scores": as_json(values), "entropy_rank": float(rank)}
            for response, values, rank in zip(responses, scores, ranks, strict=True)
        )
        rows.append(
            {
                **{name: prompt[name] for name in ("id", "prompt", "columns", "source", "reference") if name in prompt},
                "prompt_ids": measured.prompt_ids[index],
                "parts": {name: float(values[index]) for name, values in parts.items()},
                "greedy": greedy,
                "samples": samples,
            }
        )
    return rows
