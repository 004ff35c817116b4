"""export: the final policy with what a user needs to trust it.

    python stages/export.py --after round1

Writes ${output_dir}/ugrr_final: the model as AutoModelForCausalLM loads it, or with export_format: adapter as PEFT
does, and uncertainty.json with the frozen scale of its uncertainty; how uncertain the model of that folder was on the
calibration split, and whether it was right; and the threshold up to which at most target_risk of its answers to new
questions like those are wrong, with risk_confidence. What it answers to the calibration prompts and to the regret cases
of all rounds goes to data/responses/final.jsonl, for the judge and the report. metrics/export.json says what merging an
adapter cost.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch

from anchora.correctness.references import sampled_correctness
from anchora.evaluation.abstention import abstention_threshold
from anchora.kl.merging import merge_cost, merged_policy
from anchora.model.adapters import policy_from_folder
from anchora.model.loading import load_policy, ready_to_sample
from anchora.model.machine import use_machine
from anchora.model.pins import Pretrained
from anchora.model.processes import all_gather
from anchora.model.prompts import Messages, chat_template_of, renders_alike
from anchora.model.seeds import derived_seed
from anchora.run.files import first_process, new_file, new_folder, read_json, read_jsonl, write_json, write_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.sampling.responses import Request, Response
from anchora.sampling.sampler import sample_responses
from anchora.uncertainty.measure import Measured, measure_calibration
from anchora.uncertainty.reliability import labelled_answers
from anchora.uncertainty.scale import Scale
from anchora.verifiers.ensemble import reward_models
from parameters.export import ExportParams

LARGE_MERGE_COST = 0.1  # share of the drift of the updates that merging may cost before a run says so
SETTINGS = (  # on which the scale depends: whoever asks this model must measure in the same way
    "prompt_template", "enable_thinking", "max_length", "samples_per_prompt", "temperature", "top_p", "max_new_tokens", "stop_strings",
    "answer_reading", "uncertainty_dropout_samples", "uncertainty_dropout_rate", "uncertainty_dropout_layers", "uncertainty_dropout_mode",
    "load_in_4bit", "verifier_dtype",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--after", required=True, help="round<k> whose policy is the final one")
    args = parser.parse_args()
    params = read_params(ExportParams)
    log_params(params)
    use_machine(params)

    policy = policy_from_folder(Path(params.output_dir) / args.after, params.output_dir)
    cases = regret_cases(int(args.after.removeprefix("round")))
    with new_folder(Path(params.output_dir) / "ugrr_final") as partial:
        model, tokenizer = write_policy(policy, partial, params)
        scale = Scale.load(Path(params.output_dir) / "calibration.json", params.samples_per_prompt)
        verifiers = reward_models(params.output_dir, params.verifiers)
        rows, measured, correct = measure_calibration(model, tokenizer, verifiers, params)
        exported = {
            "settings": {name: getattr(params, name) for name in SETTINGS},
            "verifiers": [verifier.identity() for verifier in verifiers],
            **scale.as_json(),
            **calibration_figures(rows, measured, correct, scale, params),
        }
        write_json(partial / "uncertainty.json", exported)
        for folder in (partial, partial / "adapter"):
            if folder.is_dir():
                add_chat_template(folder, tokenizer, [row["prompt"] for row in rows], params)
        figures: dict = {"format": params.export_format} | ({"load_in_4bit": True} if params.load_in_4bit else {})
        if policy.base is not None and params.export_format != "adapter":
            greedy = [(ids, response.ids) for ids, response in zip(measured.prompt_ids, measured.greedy, strict=True)]
            figures["merging"] = merge_cost(model, tokenizer, policy, greedy, params, params.scoring_batch_tokens)
            say_merge_cost(figures["merging"], drift_of(args.after))
        # Within the block: an engine reads the policy's files, which bear another name behind it.
        request = Request("regret cases", [case["prompt_ids"] for case in cases])
        (case_responses,) = sample_responses(model, tokenizer, [request], params, derived_seed(params.seed, "regret cases"))
    if params.load_in_4bit and params.export_format != "merged":
        say("the adapter belongs on its base in four bits (NF4, double quantisation): over the base as it is stored it is another policy")
    write_json("metrics/export.json", {"export": figures})
    answers = [(row["id"], response) for row, response in zip(rows, measured.greedy, strict=True)]
    answers += [(case["id"], response) for case, (response,) in zip(cases, case_responses, strict=True)]
    write_jsonl("data/responses/final.jsonl", ({"id": prompt_id, "text": response.text} for prompt_id, response in answers))
    say(f"exported {policy.source} to {Path(params.output_dir) / 'ugrr_final'}")


def write_policy(policy: Pretrained, folder: Path, params: ExportParams) -> tuple:
    """Write the files of ``policy`` in ``export_format``; return the model that they hold, ready to sample from, and its tokenizer."""
    if policy.base is None or params.export_format == "adapter":
        copy_files(policy.source, folder)
        return load_policy(policy, params)
    merged, tokenizer = merged_policy(policy, params)
    if first_process():
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if params.export_format == "both":
        copy_files(policy.source, folder / "adapter")
    written = Pretrained(all_gather(str(folder))[0])  # by the first process, which this waits for
    return ready_to_sample(merged.to(torch.bfloat16 if params.use_bf16 else torch.float32), written), tokenizer


def copy_files(source: str, folder: Path) -> None:
    """Copy a model's files, in the first process alone, as new ones: those of the cache are read-only and shared."""
    if first_process():
        shutil.copytree(source, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)


def drift_of(after: str) -> float:
    """Return the forward KL to the SFT policy that the last round measured, nats a sequence."""
    return read_json(f"metrics/update/{after}.json")["update"][after]["kl_forward"]


def say_merge_cost(cost: dict[str, float], drift: float) -> None:
    """Print how far the merged policy is from its adapter, with advice where that is much of how far the updates moved it."""
    kl, share = cost["kl_sequence"], LARGE_MERGE_COST
    say(f"merging moved log-probs by {cost['logp_difference']:.4f} nats a token, the policy by a KL of {kl:.4f} nats a sequence")
    if kl > share * drift:
        say(
            f"that is more than {share:.0%} of the drift of its updates ({drift:.4f}): what was trained is partly lost in the base's "
            "number format; export_format: adapter ships it whole"
        )


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
    parts = scale.raw_parts(measured)
    uncertainty = scale.combine_calibration(parts)
    return {
        "calibration_parts": {name: values.tolist() for name, values in parts.items()},
        "calibration_uncertainty": uncertainty.tolist(),
        "calibration_correct": correct,
        "calibration_sampled_accuracy": sampled_accuracy(rows, measured.samples, params.answer_reading),
        "target_risk": params.target_risk,
        "risk_confidence": params.risk_confidence,
        "threshold": abstention_threshold(*labelled_answers(uncertainty, correct), params.target_risk, params.risk_confidence),
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
