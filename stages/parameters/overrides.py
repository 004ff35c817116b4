"""Changes of params.yaml as options of `dvc exp run`, in the grammar of Hydra's overrides. No stage imports this."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from anchora.run.errors import UserError
from anchora.run.files import parse_yaml
from anchora.run.logs import printable
from parameters.changes import inline, is_same

PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z][\w./-]*", re.IGNORECASE)  # the others are no text to Hydra


def options(before: dict, changes: dict) -> str:
    """Return ``changes`` to the parameters ``before`` as options of `dvc exp run`, quoted for the shell.

    They are tried by DVC's own function. Raises UserError naming a key whose value would then not be what it should: of those that
    change, or another, for -S writes all of params.yaml anew and fills in every ``${...}``.
    """
    words = {key: f"{'' if key in before else '+'}{key}={override(value)}" for key, value in changes.items()}
    after = _set_by_dvc(before, list(words.values()))
    for key, value in (before | changes).items():
        found = after or _set_by_dvc({key: before[key]} if key in before else {}, [words[key]] if key in words else [])
        if not is_same(found.get(key), value) or printable(words.get(key, "")) != words.get(key, ""):
            raise UserError(
                f"{key}: {ascii(value)} does not outlive `dvc exp run -S`, by which DVC would set {ascii(found.get(key))}; write the "
                "changes into params.yaml by configure --config without --print, and run without -S"
            )
    return " ".join(f"-S {shlex.quote(word)}" for word in words.values())


def override(value) -> str:
    """Return a value as Hydra reads it on the right of an override; text that is no plain word stands in double quotes.

    In quotes, backslashes count double before a quote and at the end (Hydra), and before ``${``, which would else be filled in
    (OmegaConf).
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(override, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str):
        return repr(value)
    if PLAIN.fullmatch(value):
        return value
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), literal) + '"'


def _set_by_dvc(values: dict, words: list[str]) -> dict:
    """Return what DVC makes of a params.yaml of ``values`` by the overrides ``words``; nothing where it refuses."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides
    from omegaconf.errors import OmegaConfBaseException

    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text("".join(f"{key}: {inline(value)}\n" for key, value in values.items()) or "{}\n", encoding="utf-8")
        try:
            apply_overrides(path, words)
            return parse_yaml(path.read_text(encoding="utf-8"))
        except (DvcException, OmegaConfBaseException, yaml.YAMLError, ValueError, UnicodeError):
            return {}
