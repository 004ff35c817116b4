"""pin_models: say once and for all which model each name means.

    python stages/pin_models.py

Writes small files that later stages depend on: the path and hash of a local folder, or a hub id with
its revision. A hub id without a revision is refused, for the branch it points at may move.

What can be found by looking at files is told here, before anything is trained: folders without weights, adapters, and
brought reward models with another number of logits than one. Of a hub model these are the files in the hub's cache; where
they are not there yet, the stage that loads the model looks at them.
"""

from __future__ import annotations

import re
from pathlib import Path

from anchora.model.pins import adapter_error, folder_hash
from anchora.run.errors import UserError
from anchora.run.files import write_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from parameters.pin_models import PinModelsParams

ALIASES = {
    "mistral-7b": "mistralai/Mistral-7B-v0.3@caa1feb0e54d415e2df31207e5f4e273e33509b1",
    "bert-base-uncased": "google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594",
}
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>.*))?")


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
    write_json(pins / "policy.json", policy)
    write_json(pins / "encoder.json", encoder)
    write_json(pins / "judge.json", judge)
    write_json(Path(params.output_dir) / "verifiers" / "brought.json", brought)
    for name, value in (("policy", policy), ("encoder", encoder), ("judge", judge)):
        say(f"{name}: {(value.get('path') or value['repo'] + '@' + value['revision']) if value else 'none'}")


def check_members(params: PinModelsParams) -> None:
    """Raise UserError for an ensemble of no members, and for members to train where there is no model to train them from."""
    if not (params.verifiers or params.verifier_paths or params.verifier_functions):
        raise UserError("verifiers, verifier_paths and verifier_functions are all empty; at least one must judge the responses")
    if params.verifiers and not params.reward_model_name:
        raise UserError(f"reward_model_name is empty, and verifiers {params.verifiers} are to be trained from it; name a model")


def pin(name: str, key: str) -> dict[str, str]:
    """Return a model's pin: ``{path, sha256}`` of a local folder, or ``{repo, revision}`` of a hub id with its commit; ``{}`` of no name.

    ``key`` is the parameter that gives ``name``. Raises UserError, naming it, for a folder that holds no model and for a hub
    id without a commit of 40 hex digits.
    """
    if not name:
        return {}
    if Path(name).is_dir():
        check_no_adapter(Path(name), key, name)
        if not (Path(name) / "config.json").is_file():
            raise UserError(f"{key}: {name} is no model folder: it has no config.json")
        if not list(Path(name).glob("*.safetensors")):
            raise UserError(f"{key}: {name} has no weights as safetensors")
        return {"path": name, "sha256": folder_hash(name)}
    match = HUB_ID.fullmatch(ALIASES.get(name, name))
    if not match or name.startswith((".", "/")) or name.count("/") > 1:
        raise UserError(f"{key}: {name!r} is neither a folder here, nor owner/name@<revision>, nor one of {', '.join(ALIASES)}")
    revision = match["revision"] or ""
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(
            f"{key}: {name!r} is no folder here; a model on the hub needs its commit: {match['repo']}@<40 hex digits> "
            "(on the model's page under Files, History)"
        )
    if (snapshot := cached_snapshot(match["repo"], revision)) is not None:
        check_no_adapter(snapshot, key, name)
    return {"repo": match["repo"], "revision": revision}


def check_no_adapter(folder: Path, key: str, name: str) -> None:
    """Raise UserError for a folder with an adapter in it, which transformers would apply to weights that may hold it already."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{key}: {adapter_error(name)}")


def check_brought(pins: list[dict[str, str]]) -> None:
    """Raise UserError for brought verifiers that cannot serve; print of which the hub's cache does not hold the files yet."""
    from anchora.verifiers.heads import check_brought_verifier, is_complete  # with torch and transformers, for those who bring some

    for pin in pins:
        if "path" in pin:
            check_brought_verifier(pin["path"], f"verifier_paths: {pin['path']}")
            continue
        name, folder = f"{pin['repo']}@{pin['revision']}", cached_snapshot(pin["repo"], pin["revision"])
        if folder is not None and is_complete(folder):
            check_brought_verifier(folder, f"verifier_paths: {name}")
        else:
            say(
                f"verifier_paths: {name} is not here yet: calibrate_uncertainty, after SFT, is the first to look at it. To have it "
                f"checked before, run `hf download {pin['repo']} --revision {pin['revision']}` and pin_models again"
            )


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
