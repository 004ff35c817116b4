"""Seeds derived from the one that people set."""

import hashlib

from anchora.model.seeds import derived_seed

PURPOSES = [
    ("calibration",),
    ("evaluation",),
    ("judged sets",),
    ("sft",),
    *(("round", k) for k in range(4)),
    *(("member", m) for m in "012"),
]


def test_no_two_purposes_and_seeds_share_a_stream():
    """With seed + 1 + round, round 0 of seed 0 sampled by the calibration seed of seed 1."""
    streams = {
        derived_seed(derived_seed(derived_seed(seed, *purpose), "responses"), "shard", number)
        for seed in range(20)
        for purpose in PURPOSES
        for number in range(20)
    }
    assert len(streams) == 20 * len(PURPOSES) * 20


def test_a_seed_is_the_same_tomorrow_and_fits_torch():
    text = b'[0, "round", 0]'
    assert derived_seed(0, "round", 0) == int(hashlib.sha256(text).hexdigest()[:16], 16) // 2 == 876175345785175994
    assert all(0 <= derived_seed(seed, "a") < 2**63 for seed in range(1000))


def test_what_tells_purposes_apart_is_not_run_together():
    assert derived_seed(1, "a", 23) != derived_seed(1, "a2", 3) != derived_seed(12, "a", 3)
