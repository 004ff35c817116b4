"""Ask a policy: greedy responses and samples, with the raw parts of their uncertainty and their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from anchora.model.processes import map_across_processes
from anchora.model.prompts import Messages, encode_prompt
from anchora.regret.regret import conservative_gains, regret
from anchora.run.errors import UserError
from anchora.run.logs import say
from anchora.sampling.responses import Response, generate, generate_shard
from anchora.uncertainty.dropout import dropout_information, injected_dropout
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.scale import centred_scores, disagreement, mean_disagreement
from anchora.verifiers.ensemble import score_ensemble


@dataclass(frozen=True)
class Measured:
    """What a policy answered to n prompts; scores are raw, of each member of the ensemble."""

    prompt_ids: list[list[int]]
    greedy: list[Response]
    samples: list[list[Response]]
    token_entropy: np.ndarray  # (prompts,) nats a token
    mc_dropout: np.ndarray  # (prompts,) nats a token, or one minus the agreement
    greedy_scores: np.ndarray  # (members, prompts)
    sample_scores: np.ndarray  # (members, prompts, samples)

    def parts(self, deviation: np.ndarray, samples: int) -> dict[str, np.ndarray]:
        """The raw parts of the greedy responses' uncertainty, each (prompts,); no disagreement of one member.

        Scores are centred on the first ``samples`` samples, as many as on the calibration split: fewer would
        make every disagreement larger than its scale.
        """
        parts = {"token_entropy": self.token_entropy, "mc_dropout": self.mc_dropout}
        if len(self.greedy_scores) > 1:
            centred = centred_scores(self.greedy_scores, self.sample_scores[:, :, :samples], deviation)
            parts["verifier_disagreement"] = disagreement(centred)
        return parts

    def regrets(self, deviation: np.ndarray, penalty: float, samples: int) -> np.ndarray:
        """Regret of each greedy response over its first ``samples`` samples, (prompts,)."""
        pairs = zip(self.sample_scores.transpose(1, 0, 2), self.greedy_scores.T, strict=True)
        return np.array([regret(conservative_gains(known[:, :samples], greedy, deviation, penalty)) for known, greedy in pairs])


def within_length(tokenizer, rows: list[dict], params: MeasureParams) -> list[dict]:
    """The rows whose ``prompt`` leaves room for a response; says how many do not.

    Raises UserError naming the first longer one, unless ``overlong_prompts`` is drop; and where none is left.
    """
    kept, room = [], params.room()
    for row in rows:
        length = len(encode_prompt(tokenizer, row["prompt"], params.prompt_template))
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
    model, tokenizer, prompts: list[Messages], verifiers: list[dict[str, str]], params: MeasureParams,
    *, seed: int, samples: int,
) -> Measured:  # fmt: skip
    """Greedy responses, ``samples`` samples and their scores for each prompt; seeded by ``seed``."""
    prompt_ids = [encode_prompt(tokenizer, prompt, params.prompt_template) for prompt in prompts]
    common: dict = {
        "max_new_tokens": params.max_new_tokens, "stop_strings": params.stop_strings,
        "responses_at_once": params.responses_at_once(), "seed": seed,
    }  # fmt: skip
    greedy = [rows[0] for rows in generate(model, tokenizer, prompt_ids, label="greedy responses", **common)]
    sampled = generate(
        model, tokenizer, prompt_ids, samples=samples, temperature=params.temperature, top_p=params.top_p,
        label="samples", **common,
    )  # fmt: skip
    information = _dropout_signal(model, tokenizer, prompt_ids, greedy, params, seed)
    pairs = [(prompt, response.text) for prompt, response in zip(prompts, greedy, strict=True)]
    pairs += [(prompt, r.text) for prompt, rows in zip(prompts, sampled, strict=True) for r in rows]
    scores = score_ensemble(verifiers, pairs, params)
    return Measured(
        prompt_ids=prompt_ids,
        greedy=greedy,
        samples=sampled,
        token_entropy=np.array([response.entropy for response in greedy]),
        mc_dropout=np.array(information),
        greedy_scores=scores[:, : len(prompts)],
        sample_scores=scores[:, len(prompts) :].reshape(len(scores), len(prompts), samples),
    )


def _dropout_signal(model, tokenizer, prompt_ids, greedy, params: MeasureParams, seed: int) -> list[float]:
    if params.uncertainty_dropout_mode == "teacher_forced":
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
    size = params.responses_at_once()
    parts = [
        (copy, list(range(start, min(start + size, len(prompt_ids)))))
        for copy in range(params.uncertainty_dropout_samples)
        for start in range(0, len(prompt_ids), size)
    ]

    def regenerate(number: int, part: tuple[int, list[int]]) -> list[str]:
        mask_seed = (seed * 100_003 + number) % 2**63
        with injected_dropout(model, params.uncertainty_dropout_rate, params.uncertainty_dropout_layers, copies=1, seed=mask_seed):
            torch.manual_seed(mask_seed)
            asked = [prompt_ids[index] for index in part[1]]
            rows = generate_shard(
                model, tokenizer, asked, samples=1, temperature=params.temperature, top_p=params.top_p,
                max_new_tokens=params.max_new_tokens, stop_strings=params.stop_strings, all_stay=True,
            )  # fmt: skip
        return [row.text for row in rows]

    texts: list[list[str]] = [[] for _ in prompt_ids]
    for (_, indices), responses in zip(parts, map_across_processes(parts, regenerate), strict=True):
        for index, text in zip(indices, responses, strict=True):
            texts[index].append(text)
    return [mean_disagreement(responses, params.answer_reading) for responses in texts]
