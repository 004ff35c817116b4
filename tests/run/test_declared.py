"""What a stage reads, as dvc.yaml declares it: edits while it runs are noticed, and nothing else is taken for one."""

import os
import time

import pytest
from conftest import configured, copy_of, start_repro, wait_for

from anchora.run.declared import declaration, declared_inputs
from anchora.run.errors import UserError

pytestmark = pytest.mark.slow


def test_declarations_are_what_dvc_itself_makes_of_them(ran, monkeypatch):
    from dvc.repo import Repo

    monkeypatch.chdir(ran)
    stages = [stage for stage in Repo(".").index.stages if stage.addressing]
    assert len(stages) > 10
    for stage in stages:
        dependencies, params = declaration(stage.addressing)
        paths = {os.path.relpath(dep.fs_path, ran) for dep in stage.deps if dep.protocol == "local" and not hasattr(dep, "params")}
        assert set(dependencies) == paths, stage.addressing
        (declared,) = [dep for dep in stage.deps if hasattr(dep, "params")]
        assert set(params) == set(declared.params)


def test_an_edit_under_way_is_noticed(ran, monkeypatch, tmp_path):
    monkeypatch.chdir(copy_of(ran, tmp_path))
    before = declared_inputs("update_policy@0")
    before.check_unchanged()
    before.check_unchanged_since(time.time())
    module = tmp_path / "stages" / "anchora" / "update" / "losses.py"
    source = module.read_text()
    module.unlink()  # the copy may share its bytes
    started = time.time()
    time.sleep(0.05)  # the clock of files may lag behind
    module.write_text(source + "# edited\n")
    with pytest.raises(UserError, match=r"stages/anchora/update/losses.py was changed while update_policy@0 was running"):
        before.check_unchanged()
    with pytest.raises(UserError, match=r"stages/anchora/update/losses.py was changed while update_policy@0 was starting"):
        declared_inputs("update_policy@0").check_unchanged_since(started)
    module.write_text(source)
    before.check_unchanged()
    configured(tmp_path, anchor_weight=2.0)
    with pytest.raises(UserError, match="params.yaml: anchor_weight was changed"):
        before.check_unchanged()
    assert declared_inputs("update_policy@0").fingerprint() != before.fingerprint()


def test_what_dvcignore_leaves_out_is_no_edit(ran, monkeypatch, tmp_path):
    monkeypatch.chdir(copy_of(ran, tmp_path))
    before, fingerprint = declared_inputs("calibrate_uncertainty"), declared_inputs("calibrate_uncertainty").fingerprint()
    left = tmp_path / "models" / "verifiers" / ".0.999.partial"
    left.mkdir()
    (left / "model.safetensors").write_text("cut")
    before.check_unchanged()
    configured(tmp_path, output_dir="./models/")
    respelt = declared_inputs("calibrate_uncertainty").fingerprint()
    weights = tmp_path / "models" / "verifiers" / "0" / "model.safetensors"
    changed = weights.read_bytes()[:-1] + b"x"
    weights.unlink()
    weights.write_bytes(changed)
    (tmp_path / "dvc.lock").unlink()
    assert len({fingerprint, respelt, declared_inputs("calibrate_uncertainty").fingerprint()}) == 3


def test_a_function_that_is_mended_costs_no_responses_that_were_sampled(ran, monkeypatch, tmp_path):
    """The run goes on in the same scratch folder: what functions score has keys of its own. An edit under way is one all the same."""
    monkeypatch.chdir(copy_of(ran, tmp_path))
    before = declared_inputs("score_uncertainty@0")
    configured(tmp_path, verifier_timeout=5.0)
    (tmp_path / "verifiers" / "own.py").write_text("def score(completions, **columns): ...\n")
    assert declared_inputs("score_uncertainty@0").fingerprint() == before.fingerprint()
    with pytest.raises(UserError, match="verifiers/own.py was changed while score_uncertainty@0 was running"):
        before.check_unchanged()
    configured(tmp_path, temperature=0.9)
    assert declared_inputs("score_uncertainty@0").fingerprint() != before.fingerprint()


def test_a_stage_that_was_edited_under_way_is_not_recorded(ran, tmp_path):
    folder = copy_of(ran, tmp_path, sft_epochs=1)
    process = start_repro(folder, "sft", ANCHORA_CHECKPOINT_SECONDS="0")
    wait_for(lambda: list(folder.glob(".scratch/sft/*/checkpoint-*/whole")))  # it trains
    configured(folder, sft_learning_rate=0.0004)
    output, _ = process.communicate(timeout=300)
    assert "params.yaml: sft_learning_rate was changed while sft was running" in output and process.returncode
    assert "Traceback" not in output


def test_a_run_under_another_launcher_starts_anew(ran, monkeypatch, tmp_path):
    """FSDP's checkpoints hold shards; a file of settings for accelerate is no dependency of any stage."""
    monkeypatch.chdir(copy_of(ran, tmp_path))
    plain = declared_inputs("update_policy@0").fingerprint()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert declared_inputs("update_policy@0").fingerprint() != plain
