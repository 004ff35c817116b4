"""What several tests share: a tiny policy and verifier, and a copy of the project that ran in little."""

from __future__ import annotations

import builtins
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "data" / "own"  # where docs/your-data.md puts one's own downloads
REAL = OWN if (OWN / "alpaca_en_demo.json").is_file() else ROOT.parent / "shared" / "real"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as stages/with_python.sh has it


def environment(**more: str) -> dict[str, str]:
    """The environment of a child process: this interpreter's programs first on PATH, no DVC variables."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", **more}


def dvc(folder: Path, *arguments: str, check: bool = True, **variables: str) -> str:
    """Output of a DVC command in a folder, with more environment variables; a failure shows it all."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=1500
    )
    if check and done.returncode:
        pytest.fail(f"dvc {' '.join(arguments)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def start_repro(folder: Path, *arguments: str, **more: str) -> subprocess.Popen:
    """``dvc repro`` in a session of its own, so that only what is meant gets a signal."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *arguments], cwd=folder, env=environment(**more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def stages_run(output: str) -> set[str]:
    """The stages that `dvc repro` says it ran."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def running(folder: Path, script: str) -> list[int]:
    """Processes whose working folder is ``folder`` and whose command names ``script``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if script in (entry / "cmdline").read_text() and os.readlink(entry / "cwd") == str(folder):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def wait_for(condition, seconds: float = 90) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "waited too long"
        time.sleep(0.05)


def tracked_files() -> list[str]:
    """The project's files as a clone has them, edits that are not committed included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    return [name for name in names if (ROOT / name).is_file()]


def copy_project(target: Path) -> Path:
    """A copy of the project, without its cache, as a DVC repository of its own."""
    for name in tracked_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
    (target / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    (target / "dvc.lock").unlink(missing_ok=True)
    return target


@pytest.fixture(scope="session")
def ran(tmp_path_factory) -> Path:
    """A copy of the project in which the whole DAG has run with the smoke preset and two rounds."""
    return run_once(tmp_path_factory, "ran", small_project)


@pytest.fixture(scope="session")
def ran_adapters(ran, tmp_path_factory) -> Path:
    """The project that ran, run again from SFT on with adapters that move far, and exported both merged and as an adapter."""
    return run_once(tmp_path_factory, "ran_adapters", lambda folder: copy_of(ran, folder, **FAR_ADAPTERS))


FAR_ADAPTERS = {  # whatever loses or mixes up an adapter shows
    "lora_rank": 4, "export_format": "both", "sft_epochs": 0.1, "sft_learning_rate": 0.01, "rl_iterations": 6, "replays_per_case": 100,
    "update_learning_rate": 0.003, "kl_budget": 1e9,
}  # fmt: skip


def run_once(tmp_path_factory, name: str, make: Callable[[Path], Path]) -> Path:
    """The folder of a project that ``make`` makes and that is run once; each process of pytest-xdist then works on a copy of its own."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / f"{name}.lock"):
        if not (shared / f"{name}.finished").exists():
            dvc(make(shared / name), "repro")
            (shared / f"{name}.finished").touch()
    return Path(shutil.copytree(shared / name, base / f"own_{name}", symlinks=True)) if shared != base else shared / name


def out_hashes(lock: str) -> dict[str, str]:
    """The hash of every out by its path, of the text of a dvc.lock."""
    return {out["path"]: out["md5"] for entry in yaml.safe_load(lock)["stages"].values() for out in entry["outs"]}


def small_project(target: Path) -> Path:
    """A copy of the project with the smoke preset, but two verifiers, two rounds and prompts enough for both."""
    more = {
        "prompt_limit": 100,
        "max_new_tokens": 48,
        "verifiers": [0, 1],
        "rounds": [{"k": 0, "after": "sft"}, {"k": 1, "after": "round0"}],
    }
    return configured(copy_project(target), "smoke", **more)


def copy_of(ran: Path, target: Path, with_cache: bool = True, **changes) -> Path:
    """A copy of a project that ran, with some of its parameters changed; without DVC's cache where no DVC runs."""
    left = None if with_cache else shutil.ignore_patterns(".dvc")
    return configured(Path(shutil.copytree(ran, target, dirs_exist_ok=True, symlinks=True, ignore=left)), **changes)


def configured(folder: Path, *presets: str, **changes) -> Path:
    """The folder of a project, with presets laid over its parameters and changes over those.

    Presets go through `configure`; changes are written as they are, right or wrong. A folder without parameters gets ours.
    """
    path = folder / "params.yaml"
    if not path.exists():
        shutil.copyfile(ROOT / "params.yaml", path)
    for name in presets:
        command = [sys.executable, "ugrr_pipeline.py", "configure", "--config", f"presets/{name}.yaml"]
        subprocess.run(command, cwd=folder, env=environment(), check=True)
    if changes:
        text = YAML()  # keeps the comments
        text.width = 200
        values = text.load(path)
        values.update(changes)
        text.dump(values, folder / "params.partial")
        (folder / "params.partial").replace(path)  # at once: a stage may be reading it
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working folder of a test, with a copy of the project's params.yaml."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params_file() -> dict:
    """The values of params.yaml in the working folder."""
    return yaml.safe_load(Path("params.yaml").read_text())


def params_as(model, **changes):
    """The project's parameters as one stage reads them, with changes."""
    return model.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()) | changes)


@pytest.fixture(autouse=True)
def own_accelerate_state():
    """Accelerate keeps the number format that a process asked for first: a test in bfloat16 would lend it to those after it."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def policy():
    """The demo's base policy and its tokenizer."""
    from anchora.model.loading import load_policy
    from anchora.model.params import PolicyParams
    from anchora.model.pins import from_folder

    return load_policy(from_folder(ROOT / "models" / "base" / "policy"), params_as(PolicyParams))


def scoring_params(**changes):
    """The parameters by which verifiers score, for short pairs."""
    from anchora.verifiers.params import VerifierScoringParams

    return params_as(VerifierScoringParams, **{"max_length": 128} | changes)


@pytest.fixture(scope="session")
def encoder():
    """The demo's base encoder as a verifier with a new head, and its tokenizer."""
    import torch

    from anchora.model.pins import from_folder
    from anchora.verifiers.scoring import load_verifier

    torch.manual_seed(0)
    return load_verifier(from_folder(ROOT / "models" / "base" / "encoder"), scoring_params(), new_head=True)


@pytest.fixture(params=["mistral", "llama", "qwen2", "gpt2"])
def model(request):
    """Each of the tiny models in turn, in eval mode."""
    import torch
    from tiny_models import MODELS

    torch.manual_seed(0)
    return MODELS[request.param]().eval()


@pytest.fixture
def without_bitsandbytes(monkeypatch):
    """bitsandbytes cannot be imported, as where it is not installed."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("bitsandbytes"):
            raise ImportError("No module named 'bitsandbytes'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
