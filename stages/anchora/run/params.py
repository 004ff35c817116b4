"""Reading params.yaml into the small typed model that a stage declares for itself.

A stage sees only the keys of its own model, and a test holds those against what dvc.yaml declares. A key's type, range, default
and explanation stand in its ``Field`` and nowhere else: params.yaml and docs/parameters.md are made from it. A key of several
stages has a small model that theirs inherit from.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from anchora.run.declared import parameter_keys
from anchora.run.errors import UserError
from anchora.run.files import read_yaml

MISSING = "missing; add it (docs/parameters.md has every parameter with its default)"
FITTED = "weights of the uncertainty's parts are fitted on the calibration split; take it out"
GONE = {  # parameters of earlier versions, and what a file that still has them should say
    "beta_mode": "it is gate now, with pair for uncertainty and none for constant",
    "beta_scaling": "the update always scales by beta (inverse); take it out",
    "importance_correction": "replay: uniform draws every case equally often; take it out",
    "replay_alpha": "replay: regret draws by rank to the power of -0.25, replay: uniform by none; take it out",
    "weight_mc_dropout": FITTED,
    "weight_token_entropy": FITTED,
    "weight_verifier_disagreement": FITTED,
}


def _inside(path: str) -> str:
    if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] in ("..", "."):
        raise ValueError("must be a path inside the project, relative to its root")
    return path


def _no_link(path: str) -> str:
    """Refuse a link, which DVC refuses as well, but only when the stage has run."""
    for folder in (Path(path), *Path(path).parents):
        if folder.is_symlink():
            raise ValueError(f"{folder} is a symbolic link, below which DVC keeps no outs; name a folder, or move its cache: dvc cache dir")
    return path


NonEmptyStr = Annotated[str, StringConstraints(min_length=1)]
ProjectPath = Annotated[NonEmptyStr, AfterValidator(_inside), Field(json_schema_extra={"format": "path inside the project"})]


class Parameters(BaseModel):
    """Some keys of params.yaml; keys of other models are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class StageParams(Parameters):
    """The key of every stage."""

    log_dir: ProjectPath = Field(
        "logs", description="Folder inside the project for logs and for the parameters that each stage read; DVC does not track it."
    )


class ModelStageParams(StageParams):
    """Keys of every stage that reads or writes models."""

    output_dir: Annotated[ProjectPath, AfterValidator(_no_link)] = Field(
        "models", description="Folder inside the project that every model is written to; no symbolic link."
    )


class SeedParams(Parameters):
    """The key of every stage that draws random numbers."""

    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of everything random: new heads, orders of examples, samples, dropout masks, bootstrap."
    )


Params = TypeVar("Params", bound=Parameters)


def read_params(model: type[Params], path: str | Path = "params.yaml") -> Params:
    """Read the parameters of one stage from params.yaml.

    Raises UserError in one line for a file that is missing or no YAML, and for a missing key or a
    value of the wrong type or range.
    """
    try:
        values = read_yaml(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run from the project's root") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {type(values).__name__}")
    refuse_unknown(values, str(path))
    return validate(model, values, str(path))


def refuse_unknown(values: dict, where: str, dag: str = "dvc.yaml") -> None:
    """Raise UserError for a key that dvc.yaml declares for no stage; nothing is checked where there is no dvc.yaml."""
    if not Path(dag).is_file():
        return
    declared = [entry.get("do", entry) for entry in read_yaml(dag)["stages"].values()]
    known = {"launcher"}.union(*(parameter_keys(stage) for stage in declared))
    for key in values:
        if key not in known:
            if key in GONE:
                raise UserError(f"{where}: {key}: no such parameter any more: {GONE[key]}")
            near = difflib.get_close_matches(str(key), known, n=1)
            raise UserError(f"{where}: {key}: no such parameter; " + (f"did you mean {near[0]}?" if near else "params.yaml lists all"))


def validate(model: type[Params], values: dict, where: str) -> Params:
    """Return ``values`` as ``model``.

    Raises UserError naming the first key that is missing, or the first bad one with its value and what is allowed. Defaults are
    not filled in: they document the keys and make params.yaml, but a run reads what stands in its file.
    """
    for key in model.model_fields:
        if key not in values:
            raise UserError(f"{where}: {key}: {MISSING}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Put the first problem of a pydantic error into one line: key, value, what is allowed."""
    first, *others = error.errors()
    of_a_union = len(first["loc"]) == 2 and isinstance(first["loc"][1], str)  # the parameter, and the kind that its value is not
    kinds = [first, *(other for other in others if of_a_union and other["loc"][:-1] == first["loc"][:-1])]
    key = ".".join(str(part) for part in (first["loc"][:1] if len(kinds) > 1 else first["loc"]))
    if first["type"] == "missing":
        return f"{key}: {MISSING}"
    message = " or ".join(kind["msg"].removeprefix("Value error, ") for kind in kinds).replace("or Input should be", "or")
    if not key:  # a check between several keys names them itself
        return message
    value = re.sub(r"//[^/@]*@", "//...@", repr(first["input"]))  # an address may hold a password
    return f"{key}: {value} is not allowed: {message[0].lower()}{message[1:]}"
