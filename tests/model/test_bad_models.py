"""Models, machines and parameters that do not fit: one line each, that says what and what to do."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import ugrr_pipeline
import yaml
from conftest import ROOT, copy_project, environment, params_as
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from anchora.model import machine
from anchora.model.loading import load_policy
from anchora.model.params import PolicyParams
from anchora.model.pins import from_folder
from anchora.model.prompts import encode_prompt
from anchora.run import errors, logs
from anchora.run.errors import UserError
from anchora.run.files import write_json
from anchora.verifiers.scoring import load_verifier

BASE = ROOT / "models" / "base"


def change_json(path: Path, **changes) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def cut_weights(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: len(data) // 2])


def empty_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")


def weights_of_another_model(model: Path) -> None:
    shutil.copyfile(BASE / "encoder" / "model.safetensors", model / "model.safetensors")


def lost_layer(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layers.0.mlp" not in name}
    save_file(kept, model / "model.safetensors", {"format": "pt"})


def not_finite(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})


def more_words_than_rows(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = weights[name][:-10].clone()
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    change_json(model / "config.json", vocab_size=json.loads((model / "config.json").read_text())["vocab_size"] - 10)


def no_end_of_sequence(model: Path) -> None:
    change_json(model / "tokenizer_config.json", eos_token=None)
    for name in ("special_tokens_map.json",):
        (model / name).unlink(missing_ok=True)


BROKEN = {
    "no config": (lambda model: (model / "config.json").unlink(), ["cannot be loaded"]),
    "a config that is no JSON": (lambda model: (model / "config.json").write_text("{"), ["cannot be loaded"]),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), ["cannot be loaded"]),
    "weights cut in the middle": (cut_weights, ["cannot be loaded"]),
    "weights of no bytes": (empty_weights, ["cannot be loaded"]),
    "an unknown architecture": (lambda model: change_json(model / "config.json", model_type="unheard_of"), ["cannot be loaded"]),
    "an encoder's weights": (weights_of_another_model, ["weights of MistralForCausalLM are not in its files"]),
    "a layer that is missing": (lost_layer, ["3 weights of MistralForCausalLM are not in its files", "layers.0.mlp"]),
    "other sizes than its config says": (lambda model: change_json(model / "config.json", hidden_size=64), ["cannot be loaded"]),
    "weights that are not finite": (not_finite, ["model.norm.weight holds values that are not finite"]),
    "more tokens than embeddings": (more_words_than_rows, ["its tokenizer has ids up to", "resizing"]),
    "no tokenizer": (lambda model: [path.unlink() for path in model.glob("*token*")], ["cannot be loaded"]),
    "a tokenizer cut in the middle": (lambda model: (model / "tokenizer.json").write_text('{"version"'), ["cannot be loaded"]),
    "a tokenizer without an end": (no_end_of_sequence, ["has no end-of-sequence token", "eos_token"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_get_one_line(tmp_path, name):
    spoil, words = BROKEN[name]
    model = tmp_path / "model"
    shutil.copytree(BASE / "policy", model, copy_function=shutil.copyfile)
    spoil(model)
    with pytest.raises(UserError) as error:
        load_policy(from_folder(model), params_as(PolicyParams))
    assert "\n" not in str(error.value) and str(model) in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_policy_that_reads_less_than_max_length_is_refused():
    with pytest.raises(UserError, match="max_length: 2048, but model .*models/base/policy reads 1024 tokens"):
        load_policy(from_folder(BASE / "policy"), params_as(PolicyParams, max_length=2048))


def test_a_chat_template_that_tells_the_date_tells_the_same_one_every_day(policy, monkeypatch):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}"
    assert tokenizer.decode(encode_prompt(tokenizer, [{"role": "user", "content": "?"}], "")).replace(" ", "") == "26Jul2024"


def test_a_chat_template_that_refuses_a_prompt_is_one_line(policy):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match="refuses the turns system, user of the prompt 'Hello.': System role not supported"):
        encode_prompt(tokenizer, [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello."}], "")


def test_an_encoder_is_no_policy():
    with pytest.raises(UserError, match="models/base/encoder"):
        load_policy(from_folder(BASE / "encoder"), params_as(PolicyParams))


def test_a_brought_verifier_needs_its_head():
    """Without num_labels the head must be in the files: transformers would draw one at random."""
    with pytest.raises(UserError, match="models/base/encoder"):
        load_verifier(from_folder(BASE / "encoder"), params_as(PolicyParams))


def test_a_folder_that_is_gone_is_not_asked_for_on_the_hub():
    with pytest.raises(UserError, match="model models/gone: cannot be loaded: there is no such folder"):
        load_policy(from_folder("models/gone"), params_as(PolicyParams))


def test_a_hub_model_without_a_network():
    with pytest.raises(UserError, match="model nobody/nothing@0{40}: cannot be loaded: "):
        load_policy({"pretrained_model_name_or_path": "nobody/nothing", "revision": "0" * 40}, params_as(PolicyParams))


def test_weights_that_are_no_safetensors_are_not_read(tmp_path):
    """A sound pytorch_model.bin, which transformers would load by itself."""
    model = tmp_path / "model"
    shutil.copytree(BASE / "policy", model, copy_function=shutil.copyfile)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(model)
    with pytest.raises(UserError, match="cannot be loaded: .*safetensors"):
        load_policy(from_folder(model), params_as(PolicyParams))


def test_remote_code_needs_its_parameter(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(BASE / "policy", model, copy_function=shutil.copyfile)
    change_json(model / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})
    (model / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise ValueError('it ran')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(from_folder(model), params_as(PolicyParams))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="it ran"):
        load_policy(from_folder(model), params_as(PolicyParams, trust_remote_code=True))
    assert (tmp_path / "ran").exists()


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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "models/sft"), ["the disk is full", "models/sft", "goes on from here"]),
        (RuntimeError("I/O error: No space left on device (os error 28)"), ["the disk is full"]),
        (PermissionError(13, "Permission denied", "models"), ["no permission", "'models'"]),
        (OSError(30, "Read-only file system", "models"), ["no permission"]),
        (MemoryError(), ["out of memory", "lower batch_size"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ["out of memory", "gradient_checkpointing"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), ["out of memory"]),
        (KeyError("surprise"), ["KeyError", "ANCHORA_DEBUG=1 shows where"]),
    ],
)  # fmt: skip
def test_what_a_machine_can_do_to_a_stage_is_explained(error, words):
    for word in words:
        assert word in errors.explain(error)


def test_the_terminal_gets_no_control_characters():
    assert logs.printable("a\x1b]0;title\x07b\x9bc\u202ed\te\n\u0639 \U0001f642") == "a]0;titlebcd\te\n\u0639 \U0001f642"


def run_prepare(project: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "stages/prepare_data.py"], cwd=project, env=environment(), capture_output=True, text=True)


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """A file system of a few kilobytes is what a limit on the size of files gives: the write fails in the middle."""
    project = copy_project(tmp_path)
    script = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.argv = ["stages/prepare_data.py"]
sys.path.insert(0, "stages")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=project, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("prepare_data: error: ")
    assert not list(project.rglob("*.partial"))
    for file in (project / "data" / "prepared").glob("*.jsonl"):  # those before it are whole
        assert all(json.loads(row) for row in file.read_text().splitlines())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    project = copy_project(tmp_path)
    (project / "data").chmod(0o555)
    done = run_prepare(project)
    (project / "data").chmod(0o755)
    assert done.returncode == 1 and "no permission" in done.stderr and len(done.stderr.strip().splitlines()) == 1


CONTRADICTIONS = {
    "betas the wrong way round": ({"kl_beta_min": 2.0, "kl_beta_max": 1.0}, ["kl_beta_min: 2.0", "at most kl_beta_max = 1.0"]),
    "no room for a prompt": ({"max_new_tokens": 512, "max_length": 512}, ["max_new_tokens: 512", "below max_length"]),
    "a margin above its threshold": ({"chosen_margin": 1.0, "regret_threshold": 0.5}, ["chosen_margin: 1.0"]),
    "all weights 0": (dict.fromkeys(["weight_token_entropy", "weight_mc_dropout", "weight_verifier_disagreement"], 0.0), ["above 0"]),
    "no examples at once": ({"batch_size": 0}, ["batch_size: 0", "greater than or equal to 1"]),
    "a share above 1": ({"judge_share": 1.5}, ["judge_share: 1.5", "less than or equal to 1"]),
    "data outside of the project": ({"sft_data_path": "a/../../b.json"}, ["sft_data_path", "inside the project"]),
    "one sample": ({"samples_per_prompt": 1}, ["samples_per_prompt: 1", "2"]),
    "a seed below 0": ({"seed": -1}, ["seed: -1", "greater than or equal to 0"]),
    "a seed too large": ({"seed": 2**31}, ["seed: 2147483648", "less than"]),
    "a judge's address that is none": ({"judge_base_url": "localhost:80"}, ["judge_base_url", "http"]),
    "a key in an address": ({"judge_base_url": "http://me:secret@host"}, ["judge_base_url", "ANCHORA_JUDGE_API_KEY"]),
    "shares that take everything": ({"regret_share": 0.6, "calibration_share": 0.5}, ["regret_share: 0.6", "below 1"]),
    "one dropout sample": ({"uncertainty_dropout_samples": 1}, ["uncertainty_dropout_samples: 1"]),
    "a beta of 0": ({"kl_beta_min": 0.0}, ["kl_beta_min: 0.0", "greater than 0"]),
    "an infinite budget": ({"kl_budget": float("inf")}, ["kl_budget: inf", "finite"]),
    "not a number": ({"update_learning_rate": float("nan")}, ["update_learning_rate: nan"]),
    "text for a number": ({"rl_iterations": "many"}, ["rl_iterations: 'many'", "integer"]),
    "half a step": ({"rl_iterations": 1.5}, ["rl_iterations: 1.5", "integer"]),
    "an unknown mode": ({"beta_mode": "gated"}, ["beta_mode: 'gated'", "'uncertainty', 'constant' or 'shuffled'"]),
    "a template without its prompt": ({"prompt_template": "Answer:"}, ["prompt_template: 'Answer:'", "{prompt}"]),
    "outputs outside of the project": ({"output_dir": "../elsewhere"}, ["output_dir: '../elsewhere'", "inside the project"]),
    "outputs at the root": ({"output_dir": "/models"}, ["output_dir: '/models'", "inside the project"]),
    "logs outside of the project": ({"log_dir": "a/../../b"}, ["log_dir: 'a/../../b'", "inside the project"]),
    "the project itself": ({"output_dir": "."}, ["output_dir: '.'"]),
    "an unknown device": ({"device": "tpu"}, ["device: 'tpu'", "'auto', 'cuda' or 'cpu'"]),
    "an unknown key": ({"kl_beta_maximum": 1.0}, ["kl_beta_maximum", "did you mean kl_beta_max?"]),
    "no rounds": ({"rounds": []}, ["rounds: []", "at least one round"]),
    "a round after itself": ({"rounds": [{"k": 0, "after": "round0"}]}, ["entry 0 must be {k: 0, after: sft}"]),
    "rounds in a circle": ({"rounds": [{"k": 0, "after": "round1"}, {"k": 1, "after": "round0"}]}, ["entry 0 must be"]),
    "a round left out": ({"rounds": [{"k": 0, "after": "sft"}, {"k": 2, "after": "round1"}]}, ["entry 1 must be {k: 1, after: round0}"]),
    "a round twice": ({"rounds": [{"k": 0, "after": "sft"}, {"k": 0, "after": "sft"}]}, ["entry 1 must be"]),
    "rounds as numbers": ({"rounds": [0, 1]}, ["rounds.0: 0"]),
    "a member by name": ({"verifiers": ["first"]}, ["verifiers.0: 'first'"]),
    "two members below 0": ({"verifiers": [-1, -1]}, ["verifiers.0: -1 is not allowed", "equal to 0"]),
    "two empty stop strings": ({"stop_strings": ["", ""]}, ["stop_strings.0: ''"]),
    "a round without keys": ({"rounds": [{}]}, ["rounds.0.k: missing"]),
    "a round of nothing": ({"rounds": [{"k": None, "after": None}]}, ["rounds.0.k: None is not allowed", "integer"]),
    "a word for a beta": ({"kl_beta_min": "aut"}, ["kl_beta_min: 'aut' is not allowed: input should be 'auto' or"]),
    "a member twice": ({"verifiers": [0, 0]}, ["verifiers: [0, 0]", "twice"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_parameters_that_cannot_be_are_refused_in_one_line(name):
    changes, words = CONTRADICTIONS[name]
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | changes
    with pytest.raises(UserError) as error:
        ugrr_pipeline.check(values, {}, "")
    assert "\n" not in str(error.value) and "secret" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_every_stage_refuses_an_unknown_key_before_it_does_anything(tmp_path):
    project = copy_project(tmp_path)
    with open(project / "params.yaml", "a") as file:
        file.write("\nkl_beta_maximum: 1.0\n")
    done = run_prepare(project)
    assert done.returncode == 1 and "did you mean kl_beta_max?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (project / "data" / "prepared").exists()


def test_a_debugger_gets_the_traceback(tmp_path):
    project = copy_project(tmp_path)
    write_json(project / "data" / "sft.json", [])
    plain = run_prepare(project)
    assert plain.returncode == 1 and "Traceback" not in plain.stderr and "no rows" in plain.stderr
    env = environment(ANCHORA_DEBUG="1")
    shown = subprocess.run([sys.executable, "stages/prepare_data.py"], cwd=project, env=env, capture_output=True, text=True)
    assert "Traceback" in shown.stderr
