"""The answers of both policies to the evaluation sets, written to files: in the official formats where a set has one."""

from __future__ import annotations

from pathlib import Path

from anchora.evaluation.benchmarks import TurnAnswers
from anchora.evaluation.policy_answers import Answers
from anchora.run.files import new_folder, write_json, write_jsonl


def write_outputs(folder: Path, sets: dict[str, list[dict]], policy: Answers, baseline: Answers) -> None:
    """Write gsm8k.jsonl, with both policies side by side, and for every other set a folder with the answers of each."""
    with new_folder(folder) as partial:
        write_jsonl(
            partial / "gsm8k.jsonl",
            (
                {
                    "id": row["id"], "prompt": row["prompt"], "reference": row["reference"],
                    "policy": policy.greedy[i].text, "policy_correct": bool(policy.correct[i]),
                    "policy_uncertainty": float(policy.uncertainty[i]),
                    "baseline": baseline.greedy[i].text, "baseline_correct": bool(baseline.correct[i]),
                    "baseline_uncertainty": float(baseline.uncertainty[i]),
                }
                for i, row in enumerate(sets["gsm8k"])
            ),
        )  # fmt: skip
        for model, answers in (("ugrr", policy), ("sft", baseline)):
            for name, turn_answers in answers.turns.items():
                write_turns(partial, name, model, sets[name], turn_answers)


def write_turns(folder: Path, name: str, model: str, rows: list[dict], answers: TurnAnswers) -> None:
    """Write the answers of policy ``model`` to set ``name`` below ``folder``.

    AlpacaEval's and MT-Bench's are in their official formats; other sets get one row a line.
    """
    answered = list(zip(rows, answers, strict=True))
    if name == "alpaca_eval":
        outputs = [
            {"instruction": row["turns"][0], "output": text, "generator": model, "dataset": row["dataset"]} for row, (text,) in answered
        ]
        write_json(folder / name / model / "model_outputs.json", outputs)
    elif name == "mt_bench":
        lines = (
            {
                "question_id": row["question_id"], "answer_id": f"{model}-{row['question_id']}", "model_id": model,
                "choices": [{"index": 0, "turns": texts}], "tstamp": 0.0,
            }
            for row, texts in answered
        )  # fmt: skip
        write_jsonl(folder / name / "model_answer" / f"{model}.jsonl", lines)
    else:
        lines = ({"id": row["id"], "turns": row["turns"], "answers": texts} for row, texts in answered)
        write_jsonl(folder / name / f"{model}.jsonl", lines)
