"""export: the final policy with what a user needs to trust it.

    python stages/export.py --after round1

Writes ${output_dir}/ugrr_final: the model as AutoModelForCausalLM loads it, and uncertainty.json with
the frozen scale of its uncertainty; how uncertain the final policy was on the calibration split, and whether
it was right; and the threshold up to which at most target_risk of its answers there were wrong. What it
answers to the calibration prompts and to the regret cases of all rounds goes to data/responses/final.jsonl,
for the judge and the report.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from anchora.correctness.references import sampled_correctness
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.model.pins import from_folder
from anchora.model.prompts import Messages, chat_template_of, renders_alike
from anchora.model.seeds import derived_seed
from anchora.run.files import first_process, new_file, new_folder, read_jsonl, write_json, write_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.sampling.responses import Response, generate
from anchora.uncertainty.measure import Measured, measure_calibration
from anchora.uncertainty.reliability import abstention_threshold, labelled_answers
from anchora.uncertainty.scale import Scale
from anchora.verifiers.ensemble import ensemble_members, reward_models
from parameters.export import ExportParams

SETTINGS = (  # on which the scale depends: whoever asks this model must measure in the same way
    "prompt_template", "max_length", "samples_per_prompt", "temperature", "top_p", "max_new_tokens", "stop_strings", "answer_reading",
    "uncertainty_dropout_samples", "uncertainty_dropout_rate", "uncertainty_dropout_layers", "uncertainty_dropout_mode",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--after", required=True, help="round<k> whose policy is the final one")
    args = parser.parse_args()
    params = read_params(ExportParams)
    log_params(params)
    use_machine(params)

    policy = Path(params.output_dir) / args.after
    cases = regret_cases(int(args.after.removeprefix("round")))
    model, tokenizer = load_policy(from_folder(policy), params)
    scale = Scale.load(Path(params.output_dir) / "calibration.json", params)
    verifiers = ensemble_members(params.output_dir, params)
    rows, measured, correct = measure_calibration(model, tokenizer, verifiers, params)
    exported = {
        "settings": {name: getattr(params, name) for name in SETTINGS},
        "verifiers": [verifier.identity() for verifier in reward_models(params.output_dir, params.verifiers)],
        "weights": scale.weights,
        **scale.as_json(),
        **calibration_figures(rows, measured, correct, scale, params),
    }
    with new_folder(Path(params.output_dir) / "ugrr_final") as partial:
        if first_process():  # copyfile: the cache's files are read-only and shared
            shutil.copytree(policy, partial, copy_function=shutil.copyfile, dirs_exist_ok=True)
        write_json(partial / "uncertainty.json", exported)
        add_chat_template(partial, tokenizer, [row["prompt"] for row in rows], params)
    case_responses = generate(
        model, tokenizer, [case["prompt_ids"] for case in cases], max_new_tokens=params.max_new_tokens,
        responses_at_once=params.responses_at_once(), seed=derived_seed(params.seed, "regret cases"),
        stop_strings=params.stop_strings, label="regret cases",
    )  # fmt: skip
    answers = [(row["id"], response) for row, response in zip(rows, measured.greedy, strict=True)]
    answers += [(case["id"], response) for case, (response,) in zip(cases, case_responses, strict=True)]
    write_jsonl("data/responses/final.jsonl", ({"id": prompt_id, "text": response.text} for prompt_id, response in answers))
    say(f"exported {policy} to {Path(params.output_dir) / 'ugrr_final'}")


def add_chat_template(folder: Path, tokenizer, prompts: list[Messages], params: ExportParams) -> None:
    """Write ``prompt_template`` as the chat template of a policy that has none, so that a server renders what it was trained on."""
    if tokenizer.chat_template:
        return
    chat_template = chat_template_of(tokenizer, params.prompt_template)
    talk = [{"role": "system", "content": "Be brief."}, *prompts[0], {"role": "assistant", "content": "Yes."}, *prompts[-1]]
    if not renders_alike(tokenizer, chat_template, params.prompt_template, [*prompts, talk]):
        say("export: no chat template renders prompt_template to the same tokens with this tokenizer; serve it as plain completions")
        return
    with new_file(folder / "chat_template.jinja") as partial:
        partial.write_text(chat_template, encoding="utf-8")


def calibration_figures(rows: list[dict], measured: Measured, correct: list[bool | None], scale: Scale, params: ExportParams) -> dict:
    """Return how uncertain the policy was on the calibration split, whether it was right, and the threshold that follows."""
    uncertainty = scale.uncertainty(measured)
    return {
        "calibration_parts": {name: values.tolist() for name, values in scale.raw_parts(measured).items()},
        "calibration_uncertainty": uncertainty.tolist(),
        "calibration_correct": correct,
        "calibration_sampled_accuracy": sampled_accuracy(rows, measured.samples, params.answer_reading),
        "target_risk": params.target_risk,
        "threshold": abstention_threshold(*labelled_answers(uncertainty, correct), params.target_risk),
    }


def sampled_accuracy(rows: list[dict], samples: list[list[Response]], reading: str) -> float | None:
    """Return the share of right samples on the problems whose answer is known; None where it is known of none."""
    correct = sampled_correctness(rows, [[response.text for response in responses] for responses in samples], reading)
    labelled = [is_right for of_row in correct for is_right in of_row if is_right is not None]
    return float(np.mean(labelled)) if labelled else None


def regret_cases(last: int) -> list[dict]:
    """Return the regret cases of rounds 0 to ``last``, the latest for each prompt, sorted by id."""
    rows: dict[str, dict] = {}
    for number in range(last + 1):
        rows |= {row["id"]: row for row in read_jsonl(f"data/regret_buffer/round{number}.jsonl") if row["kind"] == "case"}
    return [rows[key] for key in sorted(rows)]


if __name__ == "__main__":
    run_stage(main)
