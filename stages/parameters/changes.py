"""Values changed in the text of params.yaml, whose comments, order and quotes stay. No stage imports this: a change here reruns none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from anchora.run.errors import UserError
from anchora.run.files import parse_yaml

NOT_FINITE = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}


def with_changes(text: str, changes: dict) -> str:
    """Return ``text``, that of params.yaml, with ``changes`` in it; keys that it lacks are added at its end.

    The result is read back, by YAML 1.1 as well as by YAML 1.2, which DVC follows. Raises UserError for a value that would not be
    read as it is, and yaml.YAMLError for a text that is no YAML.
    """
    before, pieces, end, present = parse_yaml(text), [], 0, set()
    for key, after_colon, start, stop in value_spans(text):
        present.add(key)
        if key in changes:
            gap = text[after_colon:start]
            on_the_line, below = (" ", gap.rstrip()) if "\n" in gap else (gap or " ", "")  # comments between a key and its list stay
            pieces += [text[end:after_colon], on_the_line, inline(changes[key]), below]
            end = stop
    written = "".join([*pieces, text[end:]])
    added = [f"{key}: {inline(value)}\n" for key, value in changes.items() if key not in present]
    written = "".join([written, "\n" if added and written and not written.endswith("\n") else "", *added])
    for key, value in changes.items():
        if not all(_is_read_as(f"{key}: {inline(value)}", read, key, value) for read in (yaml.safe_load, parse_yaml)):
            raise UserError(f"{key}: {ascii(value)} cannot be written to params.yaml so that it is read back; it is as it was")
    for key, value in (before | changes).items():
        if not all(_is_read_as(written, read, key, value) for read in ((yaml.safe_load, parse_yaml) if key in changes else (parse_yaml,))):
            raise UserError(f"params.yaml: {key} would not be read back after the change; set {', '.join(changes)} there by hand")
    return written


def value_spans(text: str) -> Iterator[tuple[str, int, int, int]]:
    """Yield each key of the outermost mapping of ``text``, and where its colon ends and where its value starts and ends."""
    depth, key, after_colon, start, stop = 0, None, 0, None, 0
    event: Any
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        begins, ends = event.start_mark.index, event.end_mark.index
        if isinstance(event, yaml.NodeEvent) and depth == 1 and key is None:
            key, after_colon, start = getattr(event, "value", ""), text.index(":", ends) + 1, None
            continue
        if isinstance(event, yaml.NodeEvent) and key is not None and start is None:
            start = begins
        if not isinstance(event, yaml.CollectionEndEvent) or ends > begins:  # a list in lines ends where the next key begins
            stop = ends
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth == 1 and start is not None:
            yield str(key), after_colon, start, start + len(text[start:stop].rstrip())
            key = start = None


def inline(value) -> str:
    """Return a value of params.yaml on one line, so that YAML 1.1 and YAML 1.2 both read it back.

    Text is bare where it is of plain letters and both read it as text: not No, 12:30, 1e3 or 0x1F.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inline(str(key))}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, float):
        return NOT_FINITE.get(repr(value)) or re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))  # 3e-06 is text in YAML 1.1
    if not isinstance(value, str):
        return json.dumps(value, default=repr)
    bare = re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9_./ -]*[A-Za-z0-9_./-])?", value)
    return value if bare and yaml.safe_load(value) == value == parse_yaml(value) else quoted(value)


def quoted(text: str) -> str:
    """Return ``text`` in double quotes, on one line: as JSON has it, and with an escape for every other letter that cannot be seen."""
    letters = (letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in json.dumps(text, ensure_ascii=False))
    return "".join(letters)


def is_same(first, second) -> bool:
    """Return whether two values of params.yaml are the same: 1, 1.0 and true are three, and nan is nan."""
    texts = [json.dumps(value, default=lambda other: {"not in JSON": repr(other)}) for value in (first, second)]
    return texts[0] == texts[1]


def _is_read_as(text: str, read: Callable[[str], dict], key: str, value) -> bool:
    """Return whether ``read`` finds exactly ``value`` at ``key`` in ``text``."""
    try:
        return is_same(read(text)[key], value)
    except (yaml.YAMLError, ValueError, KeyError, TypeError):
        return False
