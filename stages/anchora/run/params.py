"""Reading params.yaml into the small typed model that a stage declares for itself.

A stage sees only the keys of its own model, and a test holds those against what dvc.yaml declares.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from anchora.run.declared import parameter_keys
from anchora.run.errors import UserError
from anchora.run.files import read_yaml

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Reading = Literal["last", "anchored"]  # which number of a response is its answer
Text = Annotated[str, StringConstraints(min_length=1)]


def _inside(path: str) -> str:
    if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] in ("..", "."):
        raise ValueError("must be a path inside the project, relative to its root")
    return path


def _each_once(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("the same member stands there twice")
    return values


Members = Annotated[list[CountOrZero], AfterValidator(_each_once)]  # of the ensemble, by their seeds
InsidePath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_inside)]


class StageParams(BaseModel):
    """What every stage declares; keys of other stages are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    log_dir: InsidePath


class ModelStageParams(StageParams):
    """What every stage declares that reads or writes models."""

    output_dir: InsidePath


Params = TypeVar("Params", bound=StageParams)


def read_params(model: type[Params], path: str | Path = "params.yaml") -> Params:
    """The parameters of one stage from params.yaml.

    Raises UserError in one line for a file that is missing or no YAML, and for a missing key or a
    value of the wrong type or range. Numbers may stand as strings: DVC writes 3e-06, which YAML 1.1
    reads as text.
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
            near = difflib.get_close_matches(str(key), known, n=1)
            raise UserError(f"{where}: {key}: no such parameter; " + (f"did you mean {near[0]}?" if near else "params.yaml lists all"))


def validate(model: type[Params], values: dict, where: str) -> Params:
    """``values`` as ``model``; raises UserError naming the first bad key, its value and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error in one line: key, value, what is allowed."""
    first, *others = error.errors()
    of_a_union = len(first["loc"]) == 2 and isinstance(first["loc"][1], str)  # the parameter, and the kind that its value is not
    kinds = [first, *(other for other in others if of_a_union and other["loc"][:-1] == first["loc"][:-1])]
    key = ".".join(str(part) for part in (first["loc"][:1] if len(kinds) > 1 else first["loc"]))
    if first["type"] == "missing":
        return f"{key}: missing; add it (README, table of parameters)"
    message = " or ".join(kind["msg"].removeprefix("Value error, ") for kind in kinds).replace("or Input should be", "or")
    if not key:  # a check between several keys names them itself
        return message
    value = re.sub(r"//[^/@]*@", "//...@", repr(first["input"]))  # an address may hold a password
    return f"{key}: {value} is not allowed: {message[0].lower()}{message[1:]}"
