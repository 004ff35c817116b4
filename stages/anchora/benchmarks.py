"""AlpacaEval and MT-Bench: the answers of a policy."""

from __future__ import annotations

from anchora.generation import generate
from anchora.prompts import Messages, encode_prompt
from parameters.answers import AnswerParams

# FastChat's temperatures by category of question; 0 is greedy decoding.
MT_BENCH_TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0,
    "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
OTHER_TEMPERATURE = 0.7


def _answer(model, tokenizer, prompts: list[Messages], temperature: float, params: AnswerParams, label: str) -> list[str]:
    ids = [encode_prompt(tokenizer, prompt, params.prompt_template) for prompt in prompts]
    responses = generate(
        model, tokenizer, ids, temperature=temperature, max_new_tokens=params.max_new_tokens,
        shard_size=params.sampling_batch_size, seed=params.seed + 2000, stop_strings=params.stop_strings, label=label,
    )  # fmt: skip
    return [rows[0].text for rows in responses]


def answer_alpaca_eval(model, tokenizer, rows: list[dict], params: AnswerParams) -> list[str]:
    """The greedy response to each instruction."""
    return _answer(model, tokenizer, [row["prompt"] for row in rows], 0.0, params, "AlpacaEval") if rows else []


def conversation(turns: list[str], answers: list[str]) -> Messages:
    """The messages before the next answer: each turn so far with the policy's own answer, then the next turn."""
    messages: Messages = []
    for turn, answer in zip(turns, answers, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": turns[len(answers)]}]


def answer_mt_bench(model, tokenizer, rows: list[dict], params: AnswerParams) -> list[list[str]]:
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
