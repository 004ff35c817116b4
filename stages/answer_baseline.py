"""answer_baseline: the SFT policy answers the evaluation sets, once for every experiment that is compared with it.

    python stages/answer_baseline.py

What evaluate needs of the baseline, in ${output_dir}/sft_answers.json: it depends on nothing that
comes after SFT and calibration, so that a change of the update does not ask the SFT policy again.
"""

from __future__ import annotations

from pathlib import Path

from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.policy_answers import answer, evaluation_sets, write_answers
from anchora.model.adapters import policy_from_folder
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage


def main() -> None:
    params = read_params(AnswerParams)
    log_params(params)
    use_machine(params)
    path = Path(params.output_dir) / "sft"
    model, tokenizer = load_policy(policy_from_folder(path, params.output_dir), params)
    answers = answer(path, model, tokenizer, evaluation_sets(tokenizer, params), params)
    write_answers(Path(params.output_dir) / "sft_answers.json", answers)
    say(f"SFT policy: exact match {answers.correct.mean():.3f} on {len(answers.correct)} problems")


if __name__ == "__main__":
    run_stage(main)
