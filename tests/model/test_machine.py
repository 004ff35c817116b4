"""Machines that lack what the parameters ask for."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, params_as

from anchora.model import machine
from anchora.model.params import PolicyParams
from anchora.run.errors import UserError


def test_a_gpu_that_is_asked_for_and_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine.use_machine(params_as(PolicyParams))
    with pytest.raises(UserError, match="device: cuda, but torch sees no GPU"):
        machine.use_machine(params_as(PolicyParams, device="cuda"))


@pytest.mark.parametrize(("seen", "taken"), [(None, "0"), ("2,3", "2"), ("GPU-abc,GPU-def", "GPU-abc"), ("", "")])
def test_one_process_takes_the_first_gpu_it_sees(monkeypatch, seen, taken):
    """Else transformers' Trainer would spread itself over all of them, which TRL refuses."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen or "")
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    machine.use_machine(params_as(PolicyParams))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == taken


def test_attention_whose_gradients_can_be_nan_is_left_out():
    torch.backends.cuda.enable_cudnn_sdp(True)
    machine.use_machine(params_as(PolicyParams))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_bfloat16_that_the_gpu_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old card")
    with pytest.raises(UserError, match="use_bf16: true, but an old card has no bfloat16"):
        machine.use_machine(params_as(PolicyParams, use_bf16=True))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_tensors_leave_memory():
    """Of 60 tensors of 4 MiB every second one is freed: 120 MiB, which glibc by itself keeps once it has seen a larger block freed."""
    held = {}
    for call in ("", "return_large_blocks()"):
        script = f"""
import os, torch
from anchora.model.machine import return_large_blocks
{call}
first = torch.ones(7 * 2**20)
del first
tensors = [torch.ones(2**20) for _ in range(60)]
tensors = tensors[1::2]
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)
"""
        command = [sys.executable, "-c", script]
        held[call] = int(subprocess.run(command, cwd=ROOT / "stages", capture_output=True, text=True, check=True).stdout)
    assert held["return_large_blocks()"] < held[""] - 60
