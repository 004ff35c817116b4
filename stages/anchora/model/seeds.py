"""Seeds of their own for everything that draws random numbers, all from the parameter ``seed``."""

from __future__ import annotations

import hashlib
import json


def derived_seed(seed: int, purpose: str, *more: int | str) -> int:
    """Derive the seed of one purpose, in [0, 2^63), from ``seed`` and whatever tells it from others, such as a round or a shard.

    Seeds of other purposes, or of other values of ``seed``, are unrelated, where sums such as ``seed + 1`` meet: round 0 of one
    experiment would sample by the calibration seed of the next.
    """
    return int.from_bytes(hashlib.sha256(json.dumps([seed, purpose, *more]).encode()).digest()[:8], "big") >> 1
