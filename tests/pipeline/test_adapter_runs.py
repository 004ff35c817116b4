"""The whole DAG with adapters: what it writes and says, the same bytes again, kills, and commands that take adapter folders."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import copy_of, dvc, environment, stages_run, wait_for
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow
ELSEWHERE = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
FROM_SFT = {"sft", "calibrate_uncertainty", "export", "answer_baseline", "evaluate", "report"} | {
    f"{name}@{k}" for name in ("score_uncertainty", "build_regret_buffer", "update_policy") for k in (0, 1)
}


def metrics(folder: Path, name: str):
    return json.loads((folder / "metrics" / name).read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def logits(model, tokenizer, text: str = "Mia has 5 eggs and finds 9 more.") -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([tokenizer(text)["input_ids"]])).logits.float().log_softmax(-1)


def run_script(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment(**variables), capture_output=True, text=True)


def test_sft_and_the_rounds_are_one_adapter_trained_on(ran_adapters):
    models = ran_adapters / "models"
    pin = json.loads((models / "pins" / "policy.json").read_text())
    shapes = []
    for name in ("sft", "round0", "round1"):
        config = json.loads((models / name / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == f"sha256:{pin['sha256']}" and not (models / name / "config.json").exists()
        assert str(ran_adapters) not in (models / name / "adapter_config.json").read_text()
        shapes.append({key: weight.shape for key, weight in weights(models / name).items()})
        size = sum(path.stat().st_size for path in (models / name).glob("*.safetensors"))
        assert size < 0.2 * (models / "base" / "policy" / "model.safetensors").stat().st_size
    assert shapes[0] == shapes[1] == shapes[2]
    sft, first, second = (weights(models / name) for name in ("sft", "round0", "round1"))
    key = max(key for key in sft if "lora_A" in key)  # where a fresh adapter would begin anew
    assert 0 < (first[key] - sft[key]).norm() < 0.5 * sft[key].norm() and 0 < (second[key] - first[key]).norm() < 0.5 * sft[key].norm()
    assert "kl_saved" not in json.dumps(metrics(ran_adapters, "update/round0.json"))


def test_what_is_exported_is_what_was_trained_in_both_forms(ran_adapters):
    final, base = ran_adapters / "models" / "ugrr_final", ran_adapters / "models" / "base" / "policy"
    tokenizer = AutoTokenizer.from_pretrained(final)
    plain = AutoModelForCausalLM.from_pretrained(base)
    of_base = logits(plain, tokenizer)
    adapter = logits(PeftModel.from_pretrained(plain, final / "adapter"), AutoTokenizer.from_pretrained(final / "adapter"))
    merged = logits(AutoModelForCausalLM.from_pretrained(final), tokenizer)
    assert (merged - adapter).abs().max() < 1e-3 and (merged - of_base).abs().max() > 0.1
    assert weights(final / "adapter").keys() == weights(ran_adapters / "models" / "round1").keys()
    assert metrics(ran_adapters, "export.json")["export"]["format"] == "both"
    cost = metrics(ran_adapters, "export.json")["export"]["merging"]
    assert 0 <= cost["logp_difference"] < 1e-4 and abs(cost["kl_sequence"]) < 1e-4
    report, card = ((ran_adapters / "metrics" / name).read_text() for name in ("report.html", "model_card.md"))
    assert "kl_saved" not in report + card and (ran_adapters / "metrics" / "evaluation.json").is_file()


def test_an_adapter_alone_is_exported_asked_and_measured(ran_adapters, tmp_path):
    """Reruns export and what follows, and pin_models, whose pins stay; in float32 the figures are those of the merged policy."""
    folder = copy_of(ran_adapters, tmp_path / "project", export_format="adapter")
    assert stages_run(dvc(folder, "repro")) == {"pin_models", "export", "evaluate", "report"}
    final = folder / "models" / "ugrr_final"
    assert {"adapter_config.json", "uncertainty.json"} <= {path.name for path in final.iterdir()} and not (final / "config.json").exists()
    assert metrics(folder, "export.json") == {"export": {"format": "adapter"}}
    assert metrics(folder, "summary.json") == pytest.approx(metrics(ran_adapters, "summary.json"), abs=1e-6)
    assert "library_name: peft" in (folder / "metrics" / "model_card.md").read_text()
    question = "Mia has 3 eggs and finds 4 more eggs. How many eggs does Mia have?"
    ours, theirs = (json.loads(run_script(side, "stages/ask.py", "--json", question).stdout) for side in (folder, ran_adapters))
    assert ours["response"] == theirs["response"] and ours["uncertainty"] == pytest.approx(theirs["uncertainty"], abs=1e-6)


def test_an_adapter_and_its_merged_policy_are_compared(ran_adapters, tmp_path):
    """In float32: no drift, no difference, every win rate one half."""
    folder = copy_of(ran_adapters, tmp_path / "project")
    paths = ["--model_path", "models/ugrr_final/adapter", "--baseline_path", "models/ugrr_final"]
    done = run_script(folder, "ugrr_pipeline.py", "evaluate", *paths)
    assert done.returncode == 0, done.stdout + done.stderr
    evaluation = json.loads((folder / "logs" / "comparison" / "evaluation.json").read_text())["evaluation"]
    assert evaluation["gsm8k"]["difference"] == evaluation["gsm8k"]["sampled_difference"] == 0
    assert evaluation["alpaca_eval"]["win_rate"] == evaluation["mt_bench"]["win_rate"] == 0.5
    assert abs(evaluation["drift"]["kl_sequence"]) < 1e-4


@pytest.mark.long
def test_a_foreign_adapter_is_compared_with_the_sft_policy(ran_adapters, tmp_path):
    """As PEFT saves one: its base by a path, its weights in bfloat16, some layers alone, no tokenizer."""
    from peft import LoraConfig, get_peft_model

    folder = copy_of(ran_adapters, tmp_path / "project")
    base = AutoModelForCausalLM.from_pretrained(folder / "models" / "base" / "policy")
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(base, config)
    model.peft_config["default"].base_model_name_or_path = "models/base/policy"
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.to(torch.bfloat16)
    model.save_pretrained(tmp_path / "foreign")
    paths = ["--model_path", str(tmp_path / "foreign"), "--baseline_path", "models/sft"]
    done = run_script(folder, "ugrr_pipeline.py", "evaluate", *paths)
    assert done.returncode == 0, done.stdout + done.stderr
    evaluation = json.loads((folder / "logs" / "comparison" / "evaluation.json").read_text())["evaluation"]
    assert evaluation["drift"]["kl_sequence"] > 0.01


def test_a_forced_rerun_elsewhere_leaves_the_lock_as_it_was(ran_adapters, tmp_path):
    """With other hashes of texts, by which sets are ordered: target_modules is one."""
    folder = copy_of(ran_adapters, tmp_path / "another place")
    lock, stages = (folder / "dvc.lock").read_text(), ["sft", "build_regret_buffer@0", "update_policy@0", "export"]
    assert stages_run(dvc(folder, "repro", "--force", "--single-item", *stages, **ELSEWHERE)) == set(stages)
    assert (folder / "dvc.lock").read_text() == lock


KILLED = {"sft": ["stages/sft.py"], "update_policy@0": ["stages/update_policy.py", "--round", "0", "--after", "sft"]}


@pytest.mark.parametrize("stage", KILLED)
def test_a_killed_training_of_adapters_goes_on_to_the_same_bytes(ran_adapters, tmp_path, stage):
    folder = copy_of(ran_adapters, tmp_path / "project", with_cache=False)
    assert killed_and_gone_on(folder, stage) == file_bytes(ran_adapters, stage)


@pytest.mark.long
@pytest.mark.parametrize("stage", KILLED)
@pytest.mark.parametrize("bf16", [False, True])
def test_a_killed_training_on_four_bits_goes_on_to_the_same_bytes(ran_adapters, tmp_path, stage, bf16):
    pytest.importorskip("bitsandbytes")
    results = {}
    for side in ("whole", "killed"):
        folder = copy_of(ran_adapters, tmp_path / side, with_cache=False, load_in_4bit=True, use_bf16=bf16)
        if stage != "sft":
            for command in (KILLED["sft"], ["stages/build_regret_buffer.py", "--round", "0", "--after", "sft"]):
                done = run_script(folder, *command)
                assert done.returncode == 0, done.stderr
        if side == "killed":
            results[side] = killed_and_gone_on(folder, stage)
        else:
            done = run_script(folder, *KILLED[stage])
            assert done.returncode == 0, done.stderr
            results[side] = file_bytes(folder, stage)
    assert results["whole"] == results["killed"]


def file_bytes(folder: Path, stage: str) -> dict[str, bytes]:
    path = folder / "models" / ("sft" if stage == "sft" else "round0")
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def killed_and_gone_on(folder: Path, stage: str) -> dict[str, bytes]:
    """The files of a stage that was killed behind its first checkpoint and started again."""
    variables, model = {"DVC_STAGE": stage, "ANCHORA_CHECKPOINT_SECONDS": "0"}, "sft" if stage == "sft" else "round0"
    shutil.rmtree(folder / "models" / model)
    command = [sys.executable, *KILLED[stage]]
    process = subprocess.Popen(command, cwd=folder, env=environment(**variables), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(folder.glob(f".scratch/{stage}/*/checkpoint-*/whole")), 300)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "models" / model).exists()
    done = run_script(folder, *KILLED[stage], **variables)
    assert done.returncode == 0 and "going on" in done.stdout, done.stdout + done.stderr
    return file_bytes(folder, stage)


@pytest.mark.long
@pytest.mark.parametrize("bf16", [False, True])
def test_the_whole_dag_runs_on_four_bits(ran_adapters, tmp_path, bf16):
    """Merged, the quantised policy is the one that was trained; what needs no policy does not run again unless the number format does."""
    pytest.importorskip("bitsandbytes")
    folder = copy_of(ran_adapters, tmp_path / "project", load_in_4bit=True, use_bf16=bf16)
    verifiers = {"train_reward@0", "train_reward@1", "train_judge"} if bf16 else set()
    assert stages_run(dvc(folder, "repro")) == {"pin_models", *FROM_SFT, *verifiers}
    assert weights(folder / "models" / "round1").keys() == weights(ran_adapters / "models" / "round1").keys()
    assert not torch.equal(*(weights(side / "models" / "sft")[min(weights(side / "models" / "sft"))] for side in (folder, ran_adapters)))
    cost = metrics(folder, "export.json")["export"]["merging"]
    assert cost["logp_difference"] < (0.1 if bf16 else 1e-4)
    config = json.loads((folder / "models" / "ugrr_final" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"  # as the demo's base is stored


@pytest.mark.long
def test_the_whole_dag_runs_with_adapters_in_bfloat16(ran_adapters, tmp_path):
    folder = copy_of(ran_adapters, tmp_path / "project", use_bf16=True, export_format="merged")
    dvc(folder, "repro")
    assert metrics(folder, "export.json")["export"]["merging"]["logp_difference"] < 0.1
    assert not (folder / "models" / "ugrr_final" / "adapter").exists()
