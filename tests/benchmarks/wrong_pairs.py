"""What the arms are worth where pairs are wrong in proportion to uncertainty: some are swapped on purpose.

    python tests/benchmarks/wrong_pairs.py --strengths 0.6 --seeds 0 1

Each pair of an arm's buffer is swapped with a probability of strength times the rank of its uncertainty. So are the
cases that the calibration prompts give, and the chance that chosen is right is fitted on those again: a pipeline whose
verifiers err like that would see the same. Starts from the experiments study-ugrr-<seed> of tests/benchmarks/study.py.
Outcomes are kept in logs/wrong_pairs, so that a run that was stopped goes on; writes metrics/studies/wrong_pairs.json.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml
from study import OURS, arguments, arms, command, experiment, experiments, outcome, project_at, summary

from anchora.data.splits import split_share
from anchora.regret.buffer import Buffer, Case, read_buffer, write_buffer
from anchora.regret.cases import select, selection_rules
from anchora.regret.chosen_right import chosen_correctness, chosen_right_probabilities
from anchora.regret.params import BuildRegretBufferParams
from anchora.regret.responses import read_scored_prompts
from anchora.run.files import read_json

ARMS = (
    "ugrr", "best_of_n_sft_anchors", "no_dpo_term", "constant_beta", "batch_gate", "shuffled_uncertainty", "logistic_loss",
    "gated_beta_alone", "gated_weight_alone", "uniform_replay", "entropy_correctness_replay", "without_hardest",
)  # fmt: skip
KEPT = Path("logs/wrong_pairs")


def swapped(cases: list[Case], uncertainties: np.ndarray, strength: float) -> list[Case]:
    """Return the cases, some with chosen and rejected exchanged; ``uncertainties`` are those of our buffer, sorted, whatever the arm."""
    ranks = np.searchsorted(uncertainties, [case["uncertainty"] for case in cases]) / len(uncertainties)
    result = []
    for case, rank in zip(cases, ranks, strict=True):
        swap = split_share(case["id"], "swap") < strength * rank
        result.append({**case, "chosen": case["rejected"], "rejected": case["chosen"]} if swap else case)
    return result


def swap_pairs(folder: Path, buffer: Buffer, uncertainties: np.ndarray, strength: float) -> float:
    """Write the buffer with swapped pairs and their probabilities of being right; return the share of calibration cases that are."""
    params = BuildRegretBufferParams.model_validate(yaml.safe_load((folder / "params.yaml").read_text()))
    prompts, calibration_prompts = (read_scored_prompts(folder / f"data/responses/{name}round0.jsonl") for name in ("", "calibration_"))
    rules = selection_rules(prompts, np.array(read_json(folder / "models/calibration.json")["deviation"]), params)
    calibration_cases, _, _ = select(calibration_prompts, {}, rules, 0)
    calibration_cases = swapped(calibration_cases, uncertainties, strength)
    correct = chosen_correctness(calibration_cases, calibration_prompts, params.answer_reading)
    cases = swapped(buffer.cases, uncertainties, strength)
    probabilities = chosen_right_probabilities(cases, calibration_cases, correct)
    for case, probability in zip(cases, probabilities, strict=True):
        case["chosen_right"] = probability
    write_buffer(folder / "data/regret_buffer/round0.jsonl", Buffer(cases, buffer.anchors, buffer.known))
    return float(np.mean([right for right in correct if right is not None]))


def built_buffer(folder: Path) -> Buffer:
    """Return the buffer that the parameters of a project make of its responses, without a pair swapped."""
    command("sh", "stages/with_python.sh", "stages/build_regret_buffer.py", "--round", "0", "--after", "sft", cwd=folder)
    return read_buffer(folder / "data/regret_buffer/round0.jsonl")


def run_seed(seed: int, strengths: list[float], names: list[str]) -> None:
    """All arms and strengths of one seed, one after another, in a clone that has the seed's SFT policy and buffer."""
    with tempfile.TemporaryDirectory() as name:
        folder = project_at(experiments()[experiment(OURS, seed)], Path(name).resolve() / "project")
        params = yaml.safe_load((folder / "params.yaml").read_text())
        changes = arms(params)
        ours = read_buffer(folder / "data/regret_buffer/round0.jsonl")
        uncertainties = np.sort([case["uncertainty"] for case in ours.cases])
        for arm in names:
            (folder / "params.yaml").write_text(yaml.safe_dump(params | changes[arm]))
            buffer: Buffer | None = None
            for strength in strengths:
                kept = KEPT / f"{arm}-{strength:g}-{seed}.json"
                if kept.is_file():
                    continue
                buffer = buffer or built_buffer(folder)
                right = swap_pairs(folder, buffer, uncertainties, strength)
                shutil.rmtree(folder / "models/round0", ignore_errors=True)
                command("sh", "stages/with_python.sh", "stages/update_policy.py", "--round", "0", "--after", "sft", cwd=folder)
                evaluate = ("stages/evaluate.py", "--policy", "models/round0", "--out", "logs/round0")
                command("sh", "stages/with_python.sh", *evaluate, cwd=folder)
                evaluation = read_json(folder / "logs/round0/evaluation.json")["evaluation"]
                kept.write_text(json.dumps(outcome(evaluation) | {"chosen_right": right}))
                print(kept.stem, kept.read_text(), flush=True)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], list(ARMS))
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.3, 0.6])
    args = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        for done in [pool.submit(run_seed, seed, args.strengths, args.arms) for seed in args.seeds]:
            done.result()
    found: dict[str, dict[str, dict[int, dict]]] = {}
    for path in sorted(KEPT.glob("*.json")):
        arm, strength, seed = path.stem.split("-")
        found.setdefault(strength, {}).setdefault(arm, {})[int(seed)] = read_json(path)
    result = {}
    for strength, outcomes in found.items():
        right = [one["chosen_right"] for one in outcomes[OURS].values()]
        result[f"strength_{strength}"] = {"chosen_right": round(float(np.mean(right)), 4), "arms": summary(outcomes)}
    Path("metrics/studies/wrong_pairs.json").write_text(json.dumps({"wrong_pairs": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
