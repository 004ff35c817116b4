"""No pickle is read and no remote code runs, whatever lies in a folder that is read."""

import os
import re
import signal

import pytest
from conftest import ROOT, copy_of, dvc, start_repro, wait_for

from anchora.training import checkpoints as checkpoint

POISON = b"cos\nsystem\n(S'touch poisoned'\ntR."


@pytest.mark.slow
def test_no_pickle_is_read_from_a_model_folder(ran, tmp_path):
    """A pickle that would run a command lies in every folder that is read; weights come from safetensors, or not at all."""
    folder = copy_of(ran, tmp_path)
    for model in ("models/base/policy", "models/base/encoder", "models/base/judge_encoder"):
        for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
            (folder / model / name).write_bytes(POISON)
    dvc(folder, "repro", "sft")
    assert not (folder / "poisoned").exists()
    (folder / "models" / "base" / "policy" / "model.safetensors").unlink()
    output = dvc(folder, "repro", "sft", check=False)
    assert not (folder / "poisoned").exists()
    assert "error: " in output and "Traceback" not in output


@pytest.mark.slow
def test_a_poisoned_checkpoint_does_not_run(ran, tmp_path):
    """A sealed checkpoint whose optimiser state is a pickle: refused in one line, and the command in it never runs."""
    folder = copy_of(ran, tmp_path, sft_epochs=0.4)
    process = start_repro(folder, "sft", ANCHORA_CHECKPOINT_SECONDS="0")
    wait_for(lambda: len(list(folder.glob(".scratch/sft/*/checkpoint-*/whole"))) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    for found in folder.glob(".scratch/sft/*/checkpoint-*"):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            (found / name).write_bytes(POISON)
        (found / "whole").write_text(checkpoint.checkpoint_hash(found))
    output = dvc(folder, "repro", "sft", check=False)
    assert not (folder / "poisoned").exists()
    assert "sft: error: " in output and "Traceback" not in output


def test_the_source_loads_no_pickle_and_no_remote_code():
    sources = "\n".join(path.read_text() for path in (ROOT / "stages").rglob("*.py"))
    for word in (r"torch\.load\(", r"\bpickle\b", "trust_remote_code=True", r"\bjoblib\b", r"(?<![\w.])eval\(", r"(?<![\w.])exec\("):
        assert not re.search(word, sources), word
