"""AlpacaEval and MT-Bench: answers of a policy, and what the kept-out judge makes of two policies' answers."""

from __future__ import annotations

import numpy as np

from anchora.generation import generate
from anchora.prompts import Messages, encode_prompt
from anchora.statistics import bootstrap_mean, win_rate
from anchora.verifiers import score_ensemble
from parameters.evaluate import EvaluateParams

# FastChat's temperatures by category of question; 0 is greedy decoding.
MT_BENCH_TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0,
    "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
OTHER_TEMPERATURE = 0.7


def _answer(model, tokenizer, prompts: list[Messages], temperature: float, params: EvaluateParams, label: str) -> list[str]:
    ids = [encode_prompt(tokenizer, prompt, params.prompt_template) for prompt in prompts]
    responses = generate(
        model, tokenizer, ids, temperature=temperature, max_new_tokens=params.max_new_tokens,
        shard_size=params.sampling_batch_size, seed=params.seed + 2000, label=label,
    )  # fmt: skip
    return [rows[0].text for rows in responses]


def answer_alpaca_eval(model, tokenizer, rows: list[dict], params: EvaluateParams) -> list[str]:
    """The greedy response to each instruction."""
    return _answer(model, tokenizer, [row["prompt"] for row in rows], 0.0, params, "AlpacaEval") if rows else []


def conversation(turns: list[str], answers: list[str]) -> Messages:
    """The messages before the next answer: each turn so far with the policy's own answer, then the next turn."""
    messages: Messages = []
    for turn, answer in zip(turns, answers, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": turns[len(answers)]}]


def answer_mt_bench(model, tokenizer, rows: list[dict], params: EvaluateParams) -> list[list[str]]:
    """Every turn of each question, each conditioned on the policy's own answers before it."""
    answers: list[list[str]] = [[] for _ in rows]
    temperatures = [MT_BENCH_TEMPERATURES.get(row["category"], OTHER_TEMPERATURE) for row in rows]
    for turn in range(max((len(row["turns"]) for row in rows), default=0)):
        for temperature in sorted(set(temperatures)):
            group = [i for i, row in enumerate(rows) if temperatures[i] == temperature and len(row["turns"]) > turn]
            prompts = [conversation(rows[i]["turns"], answers[i]) for i in group]
            if group:
                texts = _answer(model, tokenizer, prompts, temperature, params, f"MT-Bench turn {turn + 1}")
                for index, text in zip(group, texts, strict=True):
                    answers[index].append(text)
    return answers


def judged(judge: dict[str, str], rows: list[dict], policy: list[list[str]], baseline: list[list[str]], params: EvaluateParams) -> dict:
    """Win rate of the policy by the judge's score, ties as halves, with intervals over questions.

    ``policy`` and ``baseline``: the answers to every turn of each row. A turn is judged behind the
    policy's own earlier answers. Empty where there are no rows.
    """
    if not rows:
        return {}
    scores = [_scores(judge, rows, answers, params) for answers in (policy, baseline)]
    wins = np.array([win_rate(ours, theirs).mean() for ours, theirs in zip(*scores, strict=True)])
    low, high = bootstrap_mean(wins, params.seed)
    reward, reward_baseline = (np.mean([turns.mean() for turns in side]) for side in scores)
    figures = {
        "win_rate": wins.mean(), "win_rate_low": low, "win_rate_high": high,
        "reward": reward, "baseline_reward": reward_baseline,
        "mean_length": _mean_length(policy), "baseline_mean_length": _mean_length(baseline),
    }  # fmt: skip
    return {"examples": len(rows), **{name: round(float(value), 6) for name, value in figures.items()}}


def _scores(judge: dict[str, str], rows: list[dict], answers: list[list[str]], params: EvaluateParams) -> list[np.ndarray]:
    """The judge's score of every turn, an array (turns,) for each row."""
    pairs = []
    for row, turns in zip(rows, answers, strict=True):
        asked = row.get("turns") or [row["prompt"][0]["content"]]
        pairs += [(conversation(asked, turns[:turn]), text) for turn, text in enumerate(turns)]
    flat = score_ensemble(
        [judge], pairs, max_length=params.max_length, template=params.prompt_template, budget=params.scoring_batch_tokens
    )[0]
    return np.split(flat, np.cumsum([len(turns) for turns in answers])[:-1])


def _mean_length(answers: list[list[str]]) -> float:
    """Mean number of characters of a response."""
    return float(np.mean([len(text) for turns in answers for text in turns]))
