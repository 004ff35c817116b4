"""Rows of JSON by Python's own parser: what stands in quotes is text, and no row depends on those before it.

A reader that makes tables guesses one type for a whole column: dates in quotes become dates, and what the first rows
lack, later ones may not have.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import BinaryIO

from anchora.run.errors import UserError

SPACE = re.compile(r"[ \t\n\r]*")  # what JSON takes for white space
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character that is written as two escapes


class RepeatedKey(ValueError):
    """A JSON object that gives a key, its argument, twice: which of the two was meant?"""


def _object(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


# NaN is what pandas and its like write where a field has no value.
DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=lambda name: None if name == "NaN" else float(name))


def json_rows(path: str) -> Iterator[dict]:
    """Yield the rows of a file: a list of objects, or objects one behind the other, each on a line (JSON Lines) or on several.

    At any time one line is held, or the whole text where that is a list or an object goes over several lines. Raises UserError
    with the line of broken JSON and of what is no UTF-8, and with the row and field of anything else that cannot be read.
    """
    number = 1
    for line, text in _texts(path):
        has_halves = HALF.search(text)
        try:
            for value in _values(text):
                if not isinstance(value, dict):
                    raise UserError(f"{path}:{number}: expected an object with fields, found {json.dumps(value)[:40]}")
                if has_halves:
                    _refuse_halves(value, f"{path}:{number}")
                yield value
                number += 1
        except RepeatedKey as error:
            raise UserError(f"{path}:{number}: field {error.args[0]!r} stands twice in one row; keep one of them") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: broken JSON in line {line + error.lineno - 1}, column {error.colno}: {error.msg}") from None
        except RecursionError:
            raise UserError(f"{path}:{number}: JSON nested too deeply; expected a row") from None
        except ValueError:  # Python reads whole numbers of up to 4300 digits
            raise UserError(f"{path}:{number}: a number of thousands of digits; put it in quotes, or take it out") from None


def _texts(path: str) -> Iterator[tuple[int, str]]:
    """Yield every line that is not blank with its number, or the number of the first with all the text from there on.

    A line ends at a line feed and nowhere else: texts may hold U+2028, U+0085 and their like.
    """
    with open(path, "rb") as file:
        lines = (_decoded(line, file, path).rstrip() for line in file)
        first = True
        for number, text in enumerate(lines, start=1):
            if not text:
                continue
            is_list = text.lstrip().startswith("[")
            if first and (is_list or not _is_whole(text)):
                second = next(lines, "")
                if is_list or not (second.lstrip().startswith("{") and _is_whole(second)):  # else the first of many lines is broken
                    text = "\n".join([text, second, _decoded(file.read(), file, path)]).rstrip()
                yield number, text
                return
            first = False
            yield number, text


def _decoded(data: bytes, file: BinaryIO, path: str) -> str:
    """Decode what was just read from a file; a byte order mark may stand before it, as where files were put together."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        at = file.tell() - len(data) + data.startswith(BOM_UTF8) * len(BOM_UTF8) + bad.start
        raise UserError(f"{path}: not UTF-8 at byte {at}; save the file as UTF-8") from None


def _is_whole(line: str) -> bool:
    """Say whether a line holds values from their beginning to their end."""
    try:
        for _ in _values(line):
            pass
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        return True
    return True


def _values(text: str) -> Iterator:
    """Yield the items of a text that is a list, or else the values in it; raises ValueError or RecursionError where it is broken."""
    at = _behind_space(text, 0)
    if text.startswith("[", at):
        yield from _items(text, at + 1)
        return
    while at < len(text):
        value, end = DECODER.raw_decode(text, at)
        yield value
        at = _behind_space(text, end)


def _items(text: str, at: int) -> Iterator:
    """Yield the items of the list whose bracket stands before ``at``, and with which the text must end."""
    at = _behind_space(text, at)
    while not text.startswith("]", at):
        value, end = DECODER.raw_decode(text, at)
        yield value
        at = _behind_space(text, end)
        if text.startswith("]", at):
            break
        if not text.startswith(",", at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = _behind_space(text, at + 1)
        if text.startswith("]", at):
            raise json.JSONDecodeError("Illegal trailing comma before end of list", text, at)
    at = _behind_space(text, at + 1)
    if at < len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _behind_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def _refuse_halves(row: dict, location: str) -> None:
    """Raise UserError for a field in which one half of a character stands without the other: no file can hold it."""
    for field, value in row.items():
        try:
            json.dumps({field: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{location}: field {field!r}: holds half of a character (a surrogate such as \\ud83d), as where text was cut; take it out"
            ) from None
