"""harness: a policy's answers to one task of lm-evaluation-harness.

    python stages/harness.py --task gsm8k --policy ugrr_final

The task is one of harness_tasks, as pin_models found it. The policy is that of a folder below output_dir, whole or an adapter; the
harness is handed the loaded model. Writes the harness's figures, and what it keeps of each question, to
data/responses/harness/<policy>/<task>; evaluate compares the policies. What the harness prints goes to log_dir.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from anchora.evaluation.harness_results import results_folder, write_results
from anchora.evaluation.harness_runs import as_harness_model, ask
from anchora.evaluation.harness_tasks import check_installed, harness_log, load_task, pin_of
from anchora.model.adapters import policy_from_folder
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.run.errors import UserError, refused
from anchora.run.files import read_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from parameters.harness import HarnessParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", required=True, help="one of harness_tasks")
    parser.add_argument("--policy", required=True, help="folder below output_dir: sft or ugrr_final")
    args = parser.parse_args()
    params = read_params(HarnessParams)
    log_params(params)
    use_machine(params)
    check_installed()
    output_dir = Path(params.output_dir)
    pinned = read_json(output_dir / "pins" / "tasks" / f"{args.task}.json")
    with harness_log(params.log_dir) as log:
        task = load_task(args.task)
        if pin_of(task) != pinned:
            raise UserError(f"harness_tasks: {args.task} is no longer what pin_models found: run `dvc repro` again")
        model, tokenizer = load_policy(policy_from_folder(output_dir / args.policy, output_dir), params)
        lm = as_harness_model(model, tokenizer, params, params.sampling_batch_size)
        with refused(f"harness_tasks: {args.task} failed ({{error}}); {log} has what the harness said"):
            results, rows = ask(task, lm, params.harness_limit)
    write_results(results_folder(args.policy, args.task), results, rows)
    for part, found in results["parts"].items():
        figures = ", ".join(f"{key} {figure['value']:.3f}" for key, figure in found["figures"].items())
        cut = f"; {found['cut_prompts']} prompts lost their beginning" if found["cut_prompts"] else ""
        say(f"{part}, {args.policy}, {found['questions']} questions: {figures}{cut}")


if __name__ == "__main__":
    run_stage(main)
