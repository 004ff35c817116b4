r"""What each part of the method is worth: arms at equal updates over several seeds, as queued DVC experiments.

    make study                                          # all seeds and arms; hours on two cores
    python tests/benchmarks/study.py --seeds 0 1 --arms ugrr uniform_replay --jobs 1

One round an arm. The experiments are named study-<arm>-<seed>: what is done is kept, so that a study that
was stopped goes on, and stages that an arm does not change come from the run cache. Commit first: queued
experiments see what git has; and after a change of the method begin in a new clone, where nothing is done yet.
Writes study.json and study.svg in metrics/studies from all that is done, or what --out names; studies of other seeds
are pooled by naming their files:

    python tests/benchmarks/study.py --collect --out metrics/studies/study_pooled.json \
        --also metrics/studies/study.json metrics/studies/study_7_11.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import ttest_1samp, ttest_rel

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stages"))
from svg import save, two_plots

from anchora.update.params import UpdatePolicyParams

OURS = "ugrr"
ONE_ROUND = "rounds=[{k: 0, after: sft}]"
# TRL's DPOTrainer on our pairs: options of trl_dpo.py, and its beta as a share of the midpoint of ours.
TRL: dict[str, tuple[list[str], float]] = {
    f"trl_{name}{suffix}": (options, share)
    for name, options in {"dpo": [], "robust": ["--loss", "robust"], "length_normalised": ["--loss", "sigmoid_norm"]}.items()
    for suffix, share in {"": 1.0, "_half_beta": 0.5, "_quarter_beta": 0.25}.items()
} | {"trl_selective": (["--easiest", "0.5"], 1.0)}
BEST_AND_WORST = "best_and_worst_sample"
OUTSIDE = (*TRL, BEST_AND_WORST)  # arms that are no experiments: they start from those of ours


def betas(params: dict) -> tuple[float, float]:
    return UpdatePolicyParams.model_validate(params).betas()


def arms(params: dict) -> dict[str, dict]:
    """What each arm changes; the most telling ones first."""
    low, high = betas(params)
    middle = (low + high) / 2
    return {
        OURS: {},
        "best_of_n_sft_anchors": {"dpo_weight": 0.0, "case_weight": "none"},
        "constant_beta": {"gate": "none"},
        "batch_gate": {"gate": "batch"},
        "shuffled_uncertainty": {"gate": "shuffled"},
        "uniform_replay": {"replay": "uniform"},
        "entropy_correctness_replay": {"replay": "entropy_correctness"},
        "without_hardest": {"replay": "drop_hardest"},
        "constant_beta_min": {"gate": "none", "kl_beta_min": low, "kl_beta_max": low},
        "constant_beta_max": {"gate": "none", "kl_beta_min": high},
        "best_of_n_sft": {"dpo_weight": 0.0, "case_weight": "none", "anchor_weight": 0.0},
        "no_dpo_term": {"dpo_weight": 0.0},
        "no_anchors": {"anchor_weight": 0.0},
        "no_chosen_nll": {"chosen_nll_weight": 0.0},
        "logistic_loss": {"dpo_loss": "logistic"},
        "gated_beta_alone": {"case_weight": "none"},
        "weight_by_rank": {"case_weight": "certainty"},
        "gated_weight_alone": {"kl_beta_min": middle, "kl_beta_max": middle},
        BEST_AND_WORST: {"gate": "none", "case_weight": "none"},
        **{arm: {} for arm in TRL},
        "without_uncertain_cases": {"uncertainty_quantile": 1.0},
    }


def experiment(arm: str, seed: int) -> str:
    return f"study-{arm}-{seed}".replace("_", "-")


def arguments(description: str, arms: list[str]) -> argparse.ArgumentParser:
    """The options that every comparison of arms has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms)
    parser.add_argument("--jobs", type=int, default=2)
    return parser


def command(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{Path(sys.argv[0]).stem}: {' '.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def dvc(*words: str) -> str:
    return command(sys.executable, "-m", "dvc", *words)


def experiments() -> dict[str, str]:
    """The commit of every experiment that is done, by name."""
    lines = command("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    found = (line.split() for line in lines)
    return {name.rsplit("/", 1)[1]: commit for name, commit in found if name.rsplit("/", 1)[1].startswith("study-")}


def run_all(wanted: dict[str, dict], jobs: int) -> None:
    """Queue what is not done yet, work the queue off, and wait for it."""
    missing = {name: changes for name, changes in wanted.items() if name not in experiments()}
    if missing:
        dvc("queue", "remove", "--failed")  # of an earlier study that was cut: they have the names of what is queued now
    for name, changes in missing.items():
        settings = [f"-S{key}={value}" for key, value in changes.items()]
        dvc("exp", "run", "--queue", "--name", name, f"-S{ONE_ROUND}", *settings)
    if missing:  # the workers go on by themselves, and would keep a pipe open
        command_line = [sys.executable, "-m", "dvc", "queue", "start", "--jobs", str(jobs)]
        subprocess.run(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    begun = time.monotonic()
    while missing:
        time.sleep(30)  # asking costs seconds of what the experiments run on
        left = [name for name in missing if name not in experiments()]
        tasks = task_states()
        failed = [name for name in left if tasks.get(name) == "Failed"]
        if failed:
            sys.exit(f"study: {', '.join(failed)} failed; `dvc queue logs {failed[0]}` says why")
        print(f"{time.monotonic() - begun:6.0f} s: {len(missing) - len(left)} of {len(missing)} experiments done", flush=True)
        if not left:
            return


def task_states() -> dict[str, str]:
    """The state of each task of the queue, by name."""
    rows = [line.split() for line in dvc("queue", "status").splitlines()]
    return {row[1]: state for row in rows if len(row) > 2 for state in ("Running", "Queued", "Failed", "Success") if state in row}


def project_at(commit: str, folder: Path) -> Path:
    """The project as one experiment left it, in a clone that uses this project's cache, wherever its configuration keeps it."""
    command("git", "clone", "-q", "--shared", str(Path.cwd()), str(folder))
    command("git", "fetch", "-q", "origin", commit, cwd=folder)
    command("git", "checkout", "-q", commit, cwd=folder)
    (folder / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {dvc('cache', 'dir').strip()}\n")
    command(sys.executable, "-m", "dvc", "checkout", cwd=folder)
    return folder


def outcome(evaluation: dict) -> dict[str, float]:
    gsm8k = evaluation["gsm8k"]
    return {
        "gain": gsm8k["difference"],
        "sampled_gain": gsm8k["sampled_difference"],
        "kl": evaluation["drift"]["kl_sequence"],
        "newly_wrong": gsm8k["newly_wrong"] / gsm8k["examples"],
        "p_value": gsm8k["p_value"],
    }


def run_outside(arm: str, commit: str, changes: dict) -> dict:
    """Evaluation of an arm that is no experiment, from the SFT policy and the responses of one of ours, at as many updates."""
    stage, beside = ("sh", "stages/with_python.sh"), Path(__file__).parent
    with tempfile.TemporaryDirectory() as name:
        folder = project_at(commit, Path(name).resolve() / "project")
        if arm in TRL:
            options, share = TRL[arm]
            beta = share * sum(betas(yaml.safe_load((folder / "params.yaml").read_text()))) / 2
            steps = json.loads((folder / "metrics/update/round0.json").read_text())["update"]["round0"]["steps"]
            sizes = ("--steps", str(steps), "--beta", str(beta), "--out", "models/arm")
            command(sys.executable, str(beside / "trl_dpo.py"), *sizes, *options, cwd=folder)
        else:
            params = yaml.safe_load((folder / "params.yaml").read_text()) | changes
            (folder / "params.yaml").write_text(yaml.safe_dump(params))
            command(sys.executable, str(beside / "best_and_worst.py"), cwd=folder)
            shutil.rmtree(folder / "models/round0")
            command(*stage, "stages/update_policy.py", "--round", "0", "--after", "sft", cwd=folder)
            (folder / "models/round0").rename(folder / "models/arm")
        command(*stage, "stages/evaluate.py", "--policy", "models/arm", "--out", "logs/arm", cwd=folder)
        return json.loads((folder / "logs/arm/evaluation.json").read_text())["evaluation"]


def collect(names: dict[str, dict[int, str]]) -> dict[str, dict[int, dict]]:
    """Outcome of every arm and seed that is done."""
    done, kept = experiments(), Path("logs/study")
    found: dict[str, dict[int, dict]] = {}
    for arm, seeds in names.items():
        for seed, name in seeds.items():
            if name in done:
                evaluation = json.loads(command("git", "show", f"{done[name]}:metrics/evaluation.json"))["evaluation"]
                found.setdefault(arm, {})[seed] = outcome(evaluation)
            elif (kept / f"{name}.json").is_file():
                found.setdefault(arm, {})[seed] = outcome(json.loads((kept / f"{name}.json").read_text()))
    return found


COLUMNS = ("gain", "sampled_gain", "kl", "newly_wrong")
LATER = ("p_value",)  # of the gain in exact match; earlier studies' files are without it


def outcomes_of(path: str) -> dict[str, dict[int, dict]]:
    """Outcome of every arm and seed of a study's file."""
    arms = json.loads(Path(path).read_text())["study"]["arms"]
    return {
        arm: {
            seed: {key: entry[f"{key}_by_seed"][place] for key in (*COLUMNS, *LATER) if f"{key}_by_seed" in entry}
            for place, seed in enumerate(entry["seeds"])
        }
        for arm, entry in arms.items()
    }


def summary(found: dict[str, dict[int, dict]]) -> dict:
    """Figures of every arm, and paired tests across seeds against ours."""
    result = {}
    for arm, seeds in found.items():
        order = sorted(seeds)
        column = {key: [round(seeds[seed][key], 6) for seed in order] for key in COLUMNS}
        entry = {"seeds": order, **{f"{key}_by_seed": values for key, values in column.items()}}
        entry |= {f"{key}_by_seed": [seeds[seed][key] for seed in order] for key in LATER if all(key in seeds[seed] for seed in order)}
        entry |= {f"mean_{key}": round(float(np.mean(values)), 6) for key, values in column.items() if key != "newly_wrong"}
        entry["newly_wrong"] = round(float(np.mean(column["newly_wrong"])), 6)
        shared = [seed for seed in order if seed in found[OURS]]
        if arm != OURS and len(shared) > 1:
            for key in ("gain", "sampled_gain", "kl"):
                ours, theirs = ([side[seed][key] for seed in shared] for side in (found[OURS], seeds))
                test = ttest_rel(ours, theirs)
                low, high = test.confidence_interval()
                entry[f"ours_minus_{key}"] = {
                    "mean": round(float(np.mean(np.subtract(ours, theirs))), 6), "low": round(float(low), 6),
                    "high": round(float(high), 6), "p_value": float(f"{test.pvalue:.3g}"),
                }  # fmt: skip
        result[arm] = entry
    return result


def against_constants(found: dict[str, dict[int, dict]]) -> dict:
    """Our gains minus what a constant gate would have at our drift, by seed, and whether they differ.

    The constant gates' own line leads from no drift and no gain through those at ``kl_beta_max``, the midpoint and
    ``kl_beta_min``; between two of them a gain is taken to be linear in the root of the drift, as it is for small tilts.
    Seeds that drift further than the last one are left out.
    """
    line = [found[arm] for arm in ("constant_beta", "constant_beta_min", "constant_beta_max") if arm in found]
    gaps: dict[str, list[float]] = {"gain": [], "sampled_gain": []}
    for seed, ours in sorted(found[OURS].items()):
        points = sorted((arm[seed] for arm in line if seed in arm), key=lambda outcome: outcome["kl"])
        if len(points) < 2 or ours["kl"] > points[-1]["kl"]:
            continue
        roots = np.sqrt([0.0, *(point["kl"] for point in points)])
        for key, values in gaps.items():
            values.append(ours[key] - float(np.interp(np.sqrt(ours["kl"]), roots, [0.0, *(point[key] for point in points)])))
    if len(gaps["gain"]) < 2:
        return {}
    result: dict = {"seeds": len(gaps["gain"])}
    for key, values in gaps.items():
        low, high = ttest_1samp(values, 0).confidence_interval()
        result[key] = {"mean": round(float(np.mean(values)), 6), "low": round(float(low), 6), "high": round(float(high), 6)}
    return result


def draw(study: dict, path: str) -> None:
    """Gain against KL, greedy and sampled: every seed as a dot, every arm's mean as a larger one."""
    pyplot, figure, axes = two_plots("study", (12, 5), sharex=True)
    colours = pyplot.get_cmap("tab20").colors
    for axis, key, title in zip(axes, ("gain", "sampled_gain"), ("exact match, greedy", "accuracy of samples"), strict=True):
        for number, (arm, entry) in enumerate(study.items()):
            colour = colours[number % len(colours)]
            axis.scatter(entry["kl_by_seed"], entry[f"{key}_by_seed"], s=12, color=colour, alpha=0.5)
            axis.scatter(entry["mean_kl"], entry[f"mean_{key}"], s=90, color=colour, marker="*" if arm == OURS else "o", label=arm)
        axis.set(xlabel="drift, KL to the SFT policy (nats a sequence)", ylabel="gain over SFT", title=title)
        axis.grid(alpha=0.3)
    save(figure, axes, path)


def main() -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    changes = arms(params)
    parser = arguments(__doc__.splitlines()[0], list(changes))
    parser.add_argument("--collect", action="store_true", help="run nothing: write what is done")
    parser.add_argument("--also", nargs="+", default=[], help="files of studies whose seeds are added")
    parser.add_argument("--out", default="metrics/studies/study.json", help="the file; the figure lies beside it")
    args = parser.parse_args()
    names = {arm: {seed: experiment(arm, seed) for seed in args.seeds} for arm in changes}
    if not args.collect:
        for arm in dict.fromkeys([OURS, *args.arms]):  # ours first: what comes before the update is then in the cache
            if arm not in OUTSIDE:
                run_all({names[arm][seed]: {"seed": seed, **changes[arm]} for seed in args.seeds}, args.jobs)
                continue
            for seed in args.seeds:
                kept = Path("logs/study") / f"{names[arm][seed]}.json"
                if not kept.is_file():
                    evaluation = run_outside(arm, experiments()[names[OURS][seed]], changes[arm])
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_text(json.dumps(evaluation))
    found = collect(names)
    for path in args.also:
        for arm, seeds in outcomes_of(path).items():
            found.setdefault(arm, {}).update(seeds)
    study = summary(found)
    everything = {"study": {"arms": study, "ours_minus_constant_gates_at_equal_kl": against_constants(found)}}
    Path(args.out).write_text(json.dumps(everything, indent=2) + "\n")
    draw(study, str(Path(args.out).with_suffix(".svg")))
    for arm, entry in study.items():
        figures = f"{entry['mean_gain']:+.3f} {entry['mean_sampled_gain']:+.3f}  KL {entry['mean_kl']:.3f}"
        print(f"{arm:<26}{figures}  {len(entry['seeds'])} seeds")


if __name__ == "__main__":
    main()
