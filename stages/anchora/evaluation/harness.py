"""GSM8K's exact match as lm-evaluation-harness counts it, beside our own: to compare with published figures.

Source: EleutherAI/lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml (version 3.0) and its filters. Its
quirks are kept: the strict reading takes the first ``####``, and the flexible one any run of two or
more digits, commas and points.
"""

from __future__ import annotations

import re

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
INVALID = "[invalid]"
IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))


def strict_match(response: str, reference: str) -> bool:
    """Whether the number after the first ``####`` is the reference's."""
    found = STRICT.search(response)
    return _normal(found[1].strip() if found else INVALID) == _normal(reference)


def flexible_match(response: str, reference: str) -> bool:
    """Whether the last thing that looks like a number is the reference's."""
    found = FLEXIBLE.findall(response)
    extracted = next(part for part in found[-1] if part).strip() if found else INVALID
    return _normal(extracted) == _normal(reference)


def _normal(text: str) -> str:
    for pattern in IGNORED:
        text = pattern.sub("", text)
    return text.lower()
