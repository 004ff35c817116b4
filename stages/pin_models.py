"""pin_models: say once and for all which model, and which evaluation task, each name means.

    python stages/pin_models.py

Writes small files that later stages depend on: the path and hash of a local folder, or a hub id with
its revision. A hub id without a revision is refused, for the branch it points at may move. Each of
harness_tasks is loaded, so that one that cannot be asked is told now, and gets a file of its own.

What can be found by looking at files is told here, before anything is trained: folders without weights, models of quantised
weights, adapters whose base is not there or is another one, a bitsandbytes or vLLM that is missing, and brought reward models with
another number of logits than one. Of a hub model these are the files in the hub's cache; where they are not there yet, the
stage that loads the model looks at them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from anchora.evaluation.harness_tasks import check_installed, harness_log, load_task, pin_of
from anchora.model.adapters import (
    ADAPTER_CONFIG,
    COMMIT,
    REPOSITORY,
    check_shapes,
    is_adapter,
    named_base,
    read_adapter_config,
    unknown_base_error,
)
from anchora.model.pins import Pretrained, adapter_error, folder_hash, quantised_error
from anchora.run.errors import UserError
from anchora.run.files import new_folder, write_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.sampling.vllm_process import check_installed as check_vllm
from anchora.training.trackers import check_trackers
from anchora.verifiers.params import NO_MEMBERS
from parameters.pin_models import PinModelsParams

ALIASES = {
    "mistral-7b": "mistralai/Mistral-7B-v0.3@caa1feb0e54d415e2df31207e5f4e273e33509b1",
    "bert-base-uncased": "google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594",
}
HUB_ID = re.compile(rf"(?P<repo>{REPOSITORY.pattern})(?:@(?P<revision>.*))?")


def main() -> None:
    params = read_params(PinModelsParams)
    log_params(params)
    pins = Path(params.output_dir) / "pins"
    policy = pin(params.base_model_name, "base_model_name")
    encoder = pin(params.reward_model_name, "reward_model_name")
    judge = pin(params.judge_model_name, "judge_model_name")
    brought = [pin(name, "verifier_paths") for name in params.verifier_paths]
    check_members(params)
    if brought:
        check_brought(brought)
    check_bitsandbytes(params)
    check_trackers(params.trackers)
    if params.sampler == "vllm":
        check_vllm()
    pin_tasks(pins / "tasks", params)
    write_json(pins / "policy.json", policy)
    write_json(pins / "encoder.json", encoder)
    write_json(pins / "judge.json", judge)
    write_json(Path(params.output_dir) / "verifiers" / "brought.json", brought)
    write_json(Path(params.output_dir) / "verifiers" / "judge.json", params.verifier_judge_settings())
    for name, value in (("policy", policy), ("encoder", encoder), ("judge", judge)):
        say(f"{name}: {(value.get('path') or value['repo'] + '@' + value['revision']) if value else 'none'}")


def pin_tasks(folder: Path, params: PinModelsParams) -> None:
    """Write <task>.json for each of harness_tasks, and lm_eval.json with the harness's version, null where there are none."""
    installed, tasks = None, []
    if params.harness_tasks:
        installed = check_installed()
        with harness_log(params.log_dir):
            tasks = [pin_of(load_task(name)) for name in params.harness_tasks]
    with new_folder(folder) as partial:
        write_json(partial / "lm_eval.json", {"version": installed})
        for task in tasks:
            write_json(partial / f"{task['task']}.json", task)


def check_members(params: PinModelsParams) -> None:
    """Raise UserError for an ensemble of no members, one with the judge of the evaluation, and members to train without a model for it."""
    if not (params.verifiers or params.verifier_paths or params.verifier_functions or params.verifier_judge):
        raise UserError(NO_MEMBERS)
    if params.verifier_judge and params.verifier_judge.strip().lower() == params.judge_model.strip().lower():
        raise UserError(
            f"verifier_judge: {params.verifier_judge!r} is judge_model as well, and would judge what it helped to train; name another "
            "model for one of them"
        )
    if params.verifiers and not params.reward_model_name:
        raise UserError(f"reward_model_name is empty, and verifiers {params.verifiers} are to be trained from it; name a model")


def pin(name: str, key: str) -> dict:
    """Return a model's pin: ``{path, sha256}`` of a local folder, or ``{repo, revision}`` of a hub id with its commit; ``{}`` of no name.

    The pin of an adapter's folder also holds that of its ``base``. ``key`` is the parameter that gives ``name``. Raises UserError,
    naming it, for a folder that holds no model and for a hub id without a commit of 40 hex digits.
    """
    if not name:
        return {}
    if Path(name).is_dir() and is_adapter(name):
        return pin_adapter(name, key)
    if Path(name).is_dir():
        check_files(Path(name), key, name)
        if not (Path(name) / "config.json").is_file():
            raise UserError(f"{key}: {name} is no model folder: it has no config.json")
        if not list(Path(name).glob("*.safetensors")):
            raise UserError(f"{key}: {name} has no weights as safetensors")
        return {"path": name, "sha256": folder_hash(name)}
    match = HUB_ID.fullmatch(ALIASES.get(name, name))
    if not match or name.startswith((".", "/")) or name.count("/") > 1:
        raise UserError(f"{key}: {name!r} is neither a folder here, nor owner/name@<revision>, nor one of {', '.join(ALIASES)}")
    revision = match["revision"] or ""
    if not COMMIT.fullmatch(revision):
        raise UserError(
            f"{key}: {name!r} is no folder here; a model on the hub needs its commit: {match['repo']}@<40 hex digits> "
            "(on the model's page under Files, History)"
        )
    if (snapshot := cached_snapshot(match["repo"], revision)) is not None:
        if is_adapter(snapshot):
            advice = f"`hf download {match['repo']} --revision {revision} --local-dir models/base/adapter`, and name that folder"
            raise UserError(f"{key}: {name} is an adapter; adapters are taken from folders: {advice}")
        check_files(snapshot, key, name)
    return {"repo": match["repo"], "revision": revision}


def pin_adapter(name: str, key: str) -> dict:
    """Return the pin of an adapter's folder, with its base's. Raises UserError for an adapter that is not taken, or of another base."""
    try:
        base, revision = named_base(read_adapter_config(name, heads=key != "base_model_name"))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    commits = dict(alias.split("@") for alias in ALIASES.values())
    commit = revision or commits.get(base, "")
    if not Path(base or "-").is_dir() and not COMMIT.fullmatch(commit):
        raise UserError(f"{key}: {unknown_base_error(name, base, revision)}")
    if Path(base).is_dir() and is_adapter(base):
        raise UserError(f"{key}: adapter {name}: its base {base} is an adapter, too; merge that one first (PEFT's merge_and_unload)")
    pinned = pin(base if Path(base).is_dir() else f"{base}@{commit}", key)
    folder = pinned.get("path") or cached_snapshot(pinned["repo"], pinned["revision"])
    if folder is not None and (Path(folder) / "config.json").is_file():
        check_shapes(name, folder, f"{key}: adapter {name}", classifier=key != "base_model_name")
    return {"path": name, "sha256": folder_hash(name), "base": pinned}


def check_files(folder: Path, key: str, name: str) -> None:
    """Raise UserError for a model with an adapter beside it, which transformers would apply unasked, and for quantised weights."""
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{key}: {adapter_error(name)}")
    if not (folder / "config.json").is_file():
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{key}: {name}: its config.json is no JSON object")
    if quantised := config.get("quantization_config"):
        raise UserError(f"{key}: {quantised_error(name, quantised)}")


def check_bitsandbytes(params: PinModelsParams) -> None:
    """Raise UserError where models could not be loaded in four bits: bitsandbytes is not there, or cannot quantise on this machine."""
    if not params.load_in_4bit and params.verifier_dtype != "4bit":
        return
    import torch

    from anchora.model.four_bit import POLICY, VERIFIER, check_four_bit

    check_four_bit(torch.device("cuda" if torch.cuda.is_available() else "cpu"), POLICY if params.load_in_4bit else VERIFIER)


def check_brought(pins: list[dict]) -> None:
    """Raise UserError for brought verifiers that cannot serve; print of which the hub's cache does not hold the files yet."""
    from anchora.verifiers.heads import check_adapters_head, check_brought_verifier  # with torch, for those who bring some

    for pin in pins:
        name = f"verifier_paths: {pin.get('path') or pin['repo'] + '@' + pin['revision']}"
        whole, folder = pin.get("base", pin), folder_at_hand(pin.get("base", pin))
        if folder is None:
            if "base" in pin:
                check_adapters_head(pin["path"], name)
            say(
                f"{name}{' stands on ' + whole['repo'] + '@' + whole['revision'] + ', which' if 'base' in pin else ''} is not here yet: "
                f"calibrate_uncertainty, after SFT, is the first to look at it. To have it checked before, run `hf download "
                f"{whole['repo']} --revision {whole['revision']}` and pin_models again"
            )
        elif "base" in pin:
            check_brought_verifier(Pretrained(pin["path"], base=Pretrained(str(folder))), name)
        else:
            check_brought_verifier(Pretrained(str(folder)), name)


def folder_at_hand(pin: dict) -> Path | None:
    """Return the folder with the files of a pinned model: its own, or the one in the hub's cache; None where they are not here yet."""
    if "path" in pin:
        return Path(pin["path"])
    from anchora.verifiers.heads import is_complete

    folder = cached_snapshot(pin["repo"], pin["revision"])
    return folder if folder is not None and is_complete(folder) else None


def cached_snapshot(repo: str, revision: str) -> Path | None:
    """Return the folder of the hub's cache that holds files of a model at its commit; None where there is none. No network is used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


if __name__ == "__main__":
    run_stage(main)
