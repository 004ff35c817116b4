"""Liger's kernels: the same figures as the model's own modules, and one line where they cannot be had."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, params_as
from pydantic import ValidationError

from anchora.model import layers, machine
from anchora.model.params import PolicyParams
from anchora.model.pins import from_folder
from anchora.run.errors import UserError
from anchora.update.params import UpdatePolicyParams

INSTALLED = all(importlib.util.find_spec(name) for name in ("liger_kernel", "triton"))


@pytest.mark.skipif(not INSTALLED, reason="pip install liger-kernel==0.8.5 triton==3.9.0, to run its kernels by Triton's interpreter")
def test_log_probs_gradients_and_dropout_are_the_same_with_liger():
    """4 layers: two RMSNorms and an MLP each, and the last RMSNorm, are 13 modules replaced; the rotary embedding is a function."""
    finished = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "liger_on_cpu.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-2000:]
    by_model = json.loads(finished.stdout.splitlines()[-1])
    assert by_model.keys() == {"mistral", "llama", "qwen2"}
    for name, differences in by_model.items():
        assert differences.pop("replaced") == 13, name
        assert differences.pop("dropout") < 1e-3, name  # a small difference of two entropies
        assert max(differences.values()) < 1e-5, (name, differences)


def test_liger_without_a_gpu_is_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError, match="^liger_kernels: true, but .* GPU .*: set liger_kernels: false$"):
        machine.use_machine(params_as(PolicyParams, liger_kernels=True, device="cpu"))


def test_liger_and_compiled_layers_are_refused_together():
    with pytest.raises(ValidationError, match="compile_layers: true .* set liger_kernels: false"):
        params_as(UpdatePolicyParams, liger_kernels=True, compile_layers=True)


def test_liger_that_is_not_installed_is_named(monkeypatch, policy):
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(UserError, match="^liger_kernels: true, but .*liger_kernel.*pip install liger-kernel"):
        layers.use_liger(policy[0], from_folder("demo"))
