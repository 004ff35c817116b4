"""Ask the SFT policy and the final policy of a finished run more problems of the demo's world than its evaluation set holds.

    python tests/benchmarks/new_problems.py --count 2400 --out logs/abstention/new_problems.json

No question is in the demo's data files. The file has, for each policy, what tests/benchmarks/abstention.py reads: the raw parts of
the uncertainty, and whether the greedy response is right. The uncertainty is that of stages/ask.py where no verifiers are at hand;
with --verifiers it has all its parts.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stages"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data" / "demo"))
import world
from anchora.correctness.references import correctness
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.model.pins import from_folder
from anchora.model.seeds import derived_seed
from anchora.run.files import write_json
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.uncertainty.measure import measure
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.scale import Scale
from anchora.verifiers.ensemble import Member, free_members

DATA = Path(__file__).resolve().parents[2] / "data"
SEED = 77  # of the problems; data/demo/write_data.py has another one


def new_problems(count: int) -> list[dict]:
    """Return rows of problems that no data file of the demo holds: ``prompt`` and ``reference``."""
    texts = "".join(path.read_text(encoding="utf-8") for path in DATA.glob("*.json*"))
    rng, seen = random.Random(SEED), set[str]()
    rows: list[dict] = []
    while len(rows) < count:
        problem = world.draw_fresh(rng, seen)
        if problem.question not in texts:
            rows.append({"prompt": [{"role": "user", "content": problem.question}], "reference": f"#### {problem.answer}"})
    return rows


def answers(folder: Path, rows: list[dict], verifiers: list[Member], params: MeasureParams) -> dict:
    """Return the raw parts of the uncertainty, and correctness, of the greedy responses of the policy in ``folder``."""
    model, tokenizer = load_policy(from_folder(folder), params)
    measured = measure(
        model, tokenizer, rows, verifiers, params,
        seed=derived_seed(params.seed, "new problems"), samples=params.samples_per_prompt,
    )  # fmt: skip
    parts = Scale.load(Path(params.output_dir) / "calibration.json", params.samples_per_prompt).raw_parts(measured)
    return {
        "parts": {name: values.tolist() for name, values in parts.items()},
        "correct": correctness(rows, [response.text for response in measured.greedy], params.answer_reading),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2400)
    parser.add_argument("--out", type=Path, default=Path("logs/abstention/new_problems.json"))
    parser.add_argument("--verifiers", action="store_true", help="measure the verifiers' disagreement, too")
    args = parser.parse_args()
    params = read_params(MeasureParams)
    use_machine(params)
    rows, output_dir = new_problems(args.count), Path(params.output_dir)
    verifiers = free_members(params.output_dir, params) if args.verifiers else []
    policies = {name: answers(output_dir / folder, rows, verifiers, params) for name, folder in (("sft", "sft"), ("ugrr", "ugrr_final"))}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, {"policies": policies})


if __name__ == "__main__":
    run_stage(main)
