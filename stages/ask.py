"""ask: put a question to the exported policy; it answers, says how unsure it is, or abstains.

    python stages/ask.py "Mia has 3 eggs and finds 4 more. How many eggs does Mia have?"
    python stages/ask.py --json "..."

The uncertainty is that of the pipeline, on the scale that export shipped in uncertainty.json. Above the
threshold the policy abstains, so that at most target_risk of the answers it gives are wrong, with risk_confidence.
Where the verifiers are not at hand, uncertainty and threshold are those of the other signals.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import numpy as np

from anchora.evaluation.abstention import abstention_threshold, guarantee, is_answered
from anchora.model.adapters import policy_from_folder
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.model.prompts import encode_prompt
from anchora.model.seeds import derived_seed
from anchora.run.errors import UserError
from anchora.run.files import read_json
from anchora.run.logs import say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.uncertainty.measure import measure
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.reliability import fit_correctness, labelled_answers
from anchora.uncertainty.scale import Scale
from anchora.verifiers.ensemble import RewardModel, reward_models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--model", type=Path, help="an exported policy; ${output_dir}/ugrr_final unless given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    params = read_params(MeasureParams)
    use_machine(params)
    path = args.model or Path(params.output_dir) / "ugrr_final"
    if not (path / "uncertainty.json").is_file():
        raise UserError(f"{path}: no exported policy is there (no uncertainty.json); run `dvc repro export`, or name one by --model")

    shipped = read_json(path / "uncertainty.json")
    params = with_shipped(params, shipped["settings"])
    scale = Scale.load(path / "uncertainty.json", params.samples_per_prompt)
    model, tokenizer = load_policy(policy_from_folder(path, params.output_dir), params)
    verifiers = verifiers_at_hand(params, shipped["verifiers"]) if "verifier_disagreement" in scale.parts else []
    prompt = [{"role": "user", "content": args.prompt}]
    length, room = len(encode_prompt(tokenizer, prompt, params.prompt_template, params.enable_thinking)), params.room()
    if length > room:
        raise UserError(f"the prompt has {length} tokens; {path} was exported for at most {room} (max_length - max_new_tokens)")
    with contextlib.redirect_stdout(sys.stderr):  # the answer alone goes to stdout
        measured = measure(
            model, tokenizer, [{"prompt": prompt}], verifiers, params,
            seed=derived_seed(params.seed, "ask"), samples=params.samples_per_prompt,
        )  # fmt: skip
    parts = {name: values for name, values in scale.raw_parts(measured).items() if name in scale.parts}
    answer = {"response": measured.greedy[0].text, **judgement(parts, scale, shipped)}
    say(json.dumps(answer, ensure_ascii=False) if args.json else in_words(answer))


def with_shipped(params: MeasureParams, settings: dict) -> MeasureParams:
    """Return ``params`` with an export's ``settings``; exports without ``enable_thinking`` were made when no template was told it."""
    update = {"enable_thinking": None} | settings | {"sampler": "transformers"}  # an engine takes longer to start than one answer
    return params.model_copy(update=update)


def verifiers_at_hand(params: MeasureParams, exported: list[str]) -> list[RewardModel]:
    """Return the reward models that the policy was exported with, or none where they are not there, or are others by now."""
    try:
        verifiers = reward_models(params.output_dir, params.verifiers)
        return verifiers if [verifier.identity() for verifier in verifiers] == exported else []
    except (UserError, OSError):  # a folder that is gone or was changed
        return []


def judgement(parts: dict[str, np.ndarray], scale: Scale, shipped: dict) -> dict:
    """Return the uncertainty of one response, the threshold and what it promises, P(correct), and whether to abstain.

    ``parts``: its raw parts, (1,) each; ``shipped``: the content of uncertainty.json, from which ``scale`` was loaded. Where parts
    are missing, scale and threshold are made again from those that are there.
    """
    names = list(parts)
    scale = scale.restricted_to(names)
    calibration_uncertainty = scale.combine_calibration({name: np.array(shipped["calibration_parts"][name]) for name in names})
    labelled = labelled_answers(calibration_uncertainty, shipped["calibration_correct"])
    wanted = shipped["target_risk"], shipped["risk_confidence"]
    threshold = abstention_threshold(*labelled, *wanted)
    uncertainty = float(scale.combine(parts)[0])
    return {
        "uncertainty": uncertainty,
        "probability_correct": float(fit_correctness(*labelled)([uncertainty])[0]) if labelled[0] else None,
        "threshold": threshold,
        "abstains": not is_answered(uncertainty, threshold),
        "guarantee": guarantee(threshold, *wanted, len(labelled[0])),
        "signals": names,
    }


def in_words(answer: dict) -> str:
    """Say an answer and how sure it is, or why it is withheld, as ``main`` prints it."""
    chance = answer["probability_correct"]
    right = "" if chance is None else f"; answers as sure as this were right {100 * chance:.0f}% of the time"
    if not answer["abstains"]:
        return f"{answer['response']}\n\nuncertainty {answer['uncertainty']:.2f}{right}\n{answer['guarantee']}"
    limit = "no uncertainty is low enough" if answer["threshold"] is None else f"above {answer['threshold']:.2f}"
    return (
        f"I am not sure enough to answer this (uncertainty {answer['uncertainty']:.2f}, {limit}{right}).\n"
        f"{answer['guarantee']}\n\nWhat I would have said:\n{answer['response']}"
    )


if __name__ == "__main__":
    run_stage(main)
