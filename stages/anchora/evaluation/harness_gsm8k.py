"""GSM8K's exact match as lm-evaluation-harness counts it, for comparison with published figures.

Source: EleutherAI/lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml (version 3.0) and its filters. Its
quirks are kept: the strict filter takes the first ``####``, and the flexible one any run of two or
more digits, commas and points.
"""

from __future__ import annotations

import re

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
INVALID = "[invalid]"
IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))


def strict_match(response: str, reference: str) -> bool:
    """Tell whether the number after the first ``####`` of ``response`` is the reference's."""
    match = STRICT.search(response)
    return _normalised(match[1].strip() if match else INVALID) == _normalised(reference)


def flexible_match(response: str, reference: str) -> bool:
    """Tell whether the last part of ``response`` that looks like a number is the reference's."""
    matches = FLEXIBLE.findall(response)
    extracted = next(part for part in matches[-1] if part).strip() if matches else INVALID
    return _normalised(extracted) == _normalised(reference)


def _normalised(text: str) -> str:
    """Return ``text`` in lower case, without what the harness ignores when it compares."""
    for pattern in IGNORED:
        text = pattern.sub("", text)
    return text.lower()
