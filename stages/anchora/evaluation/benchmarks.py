"""The answers of a policy to conversations: AlpacaEval's have one turn, MT-Bench's two."""

from __future__ import annotations

from anchora.evaluation.answer_params import AnswerParams
from anchora.model.prompts import Messages, encode_prompt
from anchora.model.seeds import derived_seed
from anchora.run.logs import say
from anchora.sampling.responses import Request
from anchora.sampling.sampler import sample_responses

TurnAnswers = list[list[str]]  # for each row of a set, the answer to each of its turns

# FastChat's temperatures by category of question; 0 is greedy decoding.
MT_BENCH_TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0,
    "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
OTHER_TEMPERATURE = 0.7


def conversation(turns: list[str], answers: list[str]) -> Messages:
    """Return the messages that come before the next answer: each turn with its answer so far, then the next turn."""
    messages: Messages = []
    for turn, answer in zip(turns, answers, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": turns[len(answers)]}]


def answer_turns(model, tokenizer, rows: list[dict], params: AnswerParams, label: str) -> TurnAnswers:
    """Answer every turn of each row, each behind the policy's own answers to the turns before it.

    Decoding is greedy, except for rows with a ``category``, which get MT-Bench's temperature of that category.
    Conversations too long for ``max_length`` lose their beginning; the terminal is told how many, under ``label``.
    """
    answers: TurnAnswers = [[] for _ in rows]
    temperatures = [MT_BENCH_TEMPERATURES.get(row["category"], OTHER_TEMPERATURE) if "category" in row else 0.0 for row in rows]
    for turn in range(max((len(row["turns"]) for row in rows), default=0)):
        groups, requests = [], []
        for temperature in sorted(set(temperatures)):
            group = [i for i, row in enumerate(rows) if temperatures[i] == temperature and len(row["turns"]) > turn]
            talks = [conversation(rows[i]["turns"], answers[i]) for i in group]
            prompt_ids = [encode_prompt(tokenizer, talk, params.prompt_template, params.enable_thinking) for talk in talks]
            room, too_long = params.room(), sum(len(ids) > params.room() for ids in prompt_ids)
            if too_long:
                say(
                    f"{label}, turn {turn + 1}: {too_long} of {len(prompt_ids)} conversations lose their beginning, "
                    f"longer than {room} tokens"
                )
            groups.append(group)
            requests.append(Request(f"{label}, turn {turn + 1}", [ids[-room:] for ids in prompt_ids], temperature=temperature))
        drawn = sample_responses(model, tokenizer, requests, params, derived_seed(params.seed, "judged sets"))
        for group, responses in zip(groups, drawn, strict=True):
            for index, (response,) in zip(group, responses, strict=True):
                answers[index].append(response.text)
    return answers
