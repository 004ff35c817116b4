"""The pipeline as four plain commands over the same DAG that `dvc repro` runs.

    python ugrr_pipeline.py sft          --config config.json
    python ugrr_pipeline.py train_reward --config config.json
    python ugrr_pipeline.py regret_loop  --config config.json
    python ugrr_pipeline.py evaluate     --config config.json
    python ugrr_pipeline.py evaluate     --model_path A --baseline_path B
    python ugrr_pipeline.py configure    --config presets/smoke.yaml [--print]
    python ugrr_pipeline.py configure    --reset

--config lays a .json or .yaml file over params.yaml, whose comments stay; presets/ holds such files.
`configure` does only that, or with --print shows it as options of `dvc exp run`. With --reset it writes
params.yaml anew with all defaults, which are the demo's; docs/parameters.md has every parameter.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "stages"))

from anchora.evaluation.tables import comparison, summary_table  # noqa: E402
from anchora.run.errors import UserError  # noqa: E402
from anchora.run.files import new_file, parse_yaml, read_json, read_yaml  # noqa: E402
from anchora.run.logs import say  # noqa: E402
from anchora.run.params import refuse_unknown, validate  # noqa: E402
from anchora.run.stage import run_stage  # noqa: E402
from parameters.by_stage import PARAMS_BY_STAGE  # noqa: E402
from parameters.changes import with_changes  # noqa: E402
from parameters.overrides import options  # noqa: E402
from parameters.params_file import params_text  # noqa: E402

TARGETS = {
    "sft": ["sft"],
    "train_reward": ["train_reward", "train_judge"],
    "regret_loop": ["export"],
    "evaluate": ["report"],
}


def main() -> None:
    args = arguments()
    overlay = read_overlay(Path(args.config)) if args.config else {}
    paths = [os.path.abspath(path) for path in (args.model_path, args.baseline_path) if path]
    for path in paths:
        if not any((Path(path) / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise UserError(f"{path}: no model folder: it has neither config.json nor adapter_config.json")
    os.chdir(ROOT)
    if args.reset:
        reset()
        return
    before = read_yaml("params.yaml")
    check(before, overlay, args.config)
    changes = {key: value for key, value in overlay.items() if key not in before or before[key] != value}
    if args.command == "configure" and args.print:
        say(options(before, changes))
        return
    if changes:
        apply(changes)
        say("params.yaml: " + ", ".join(f"{key} = {value}" for key, value in changes.items()))
    if args.command == "configure":
        return
    if paths:
        evaluate_two(*(os.path.relpath(path) for path in paths))
        return
    log = Path((before | overlay)["log_dir"]) / "report.params.json"  # written whenever the report stage runs
    ran_before = log.stat().st_mtime_ns if log.exists() else 0
    run([sys.executable, "-m", "dvc", "repro", *TARGETS[args.command]])
    ran_after = log.stat().st_mtime_ns if log.exists() else 0
    if args.command == "evaluate" and ran_after == ran_before:  # up to date, or from the cache: no stage has printed it
        say(summary_table(read_json("metrics/evaluation.json")["evaluation"]))


def arguments() -> argparse.Namespace:
    """Read the command line; refuse options that do not go together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*TARGETS, "configure"])
    parser.add_argument("--config", help="a .json or .yaml file with parameters to change")
    parser.add_argument("--print", action="store_true", help="with configure --config: show the changes, change nothing")
    parser.add_argument("--reset", action="store_true", help="with configure: write params.yaml anew with all defaults, the demo's")
    parser.add_argument("--model_path", help="with evaluate: the policy to evaluate")
    parser.add_argument("--baseline_path", help="with evaluate: the policy to compare it with")
    args = parser.parse_args()
    if bool(args.model_path) != bool(args.baseline_path):
        parser.error("--model_path and --baseline_path go together")
    if args.model_path and args.command != "evaluate":
        parser.error(f"--model_path and --baseline_path belong to evaluate, not to {args.command}")
    if args.print and not (args.command == "configure" and args.config):
        parser.error("--print belongs to configure --config")
    if args.reset and (args.command != "configure" or args.config):
        parser.error("--reset belongs to configure, without --config")
    return args


def read_overlay(path: Path) -> dict:
    """Read the keys and values of a configuration; a judge that is not named follows ``reward_model_name``."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: broken {path.suffix.lstrip('.').upper()}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {type(values).__name__}")
    if "reward_model_name" in values:
        values.setdefault("judge_model_name", values["reward_model_name"])
    return values


def check(before: dict, overlay: dict, where: str) -> None:
    """Raise UserError for a key that no stage reads, in params.yaml or in the overlay, and for a value that its stage would refuse."""
    for values, name in ((before, "params.yaml"), (overlay, where)):
        refuse_unknown(values, name, str(ROOT / "dvc.yaml"))
    for model in PARAMS_BY_STAGE.values():
        validate(model, before | overlay, f"params.yaml with {where}" if overlay else "params.yaml")


def reset() -> None:
    """Write params.yaml anew with all defaults."""
    with new_file("params.yaml") as partial:
        partial.write_text(params_text(), encoding="utf-8")
    say("params.yaml: every parameter has its default again")


def apply(changes: dict) -> None:
    """Write the changes into params.yaml; its comments and their order stay."""
    path = Path("params.yaml")
    text = with_changes(path.read_bytes().decode("utf-8"), changes)
    with new_file(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def evaluate_two(policy: str, baseline: str) -> None:
    """Evaluate any two policies with the pipeline's verifiers and judge; DVC's outs stay as they are."""
    run([sys.executable, "-m", "dvc", "repro", "train_judge", "calibrate_uncertainty"])
    folder = Path(read_yaml("params.yaml")["log_dir"]) / "comparison"
    run([sys.executable, "stages/evaluate.py", "--policy", policy, "--baseline", baseline, "--out", str(folder)])
    say(comparison(read_json(folder / "evaluation.json")["evaluation"], "baseline", "policy"))
    say(f"\nall figures and outputs: {folder}")


def check_repository(root: Path) -> None:
    """Raise UserError for a project that is no git repository, such as an unpacked archive: DVC would not run in it."""
    settings = [root / ".dvc" / name for name in ("config", "config.local")]
    without_git = any("no_scm = true" in file.read_text(encoding="utf-8") for file in settings if file.is_file())
    if not without_git and not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise UserError(
            f"{root} is no git repository, which DVC asks for: run `git init && git add -A && git commit -m start`, or "
            "`dvc config core.no_scm true` to go without experiments"
        )


def run(command: list[str]) -> None:
    """Run a command with this interpreter's programs first on PATH; its failure ends this one, too.

    Ctrl-C reaches the command by itself, and may take its time; SIGTERM is passed on.
    """
    check_repository(ROOT)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen(command, env={**os.environ, "PATH": path})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    if process.wait():
        sys.exit(1)


if __name__ == "__main__":
    run_stage(main)
