#!/usr/bin/env bash
# netcal's NearIsotonicRegression, one of its calibration methods, gives back the label of the nearest training row: every probability is
# 0 or 1. fit() makes the first model of the path, the one without any smoothing, and nothing asks for a later one. On its training rows
# the calibration error is 0. It bites who picks a calibrator by that error, or puts the class in place of IsotonicRegression.
# Source: own run, 2026-12-01. ENIR, which averages the whole path, is as it should be.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.3.5 netcal==1.4.0

venv/bin/python - 2>progress <<'EOF' || { cat progress; exit 1; }
from importlib.metadata import version

import numpy as np
from netcal.binning import ENIR, HistogramBinning, IsotonicRegression, NearIsotonicRegression
from netcal.metrics import ECE

print("versions: netcal", version("netcal"), "numpy", version("numpy"))
print("guess:    near-isotonic regression smooths like isotonic regression, and on new rows is better than the uncalibrated confidence")
dice = np.random.default_rng(0)


def rows(count):
    """Confidences that are too sure, and whether the answers are right."""
    chance = dice.random(count)
    return chance**3 / (chance**3 + (1 - chance) ** 3), (dice.random(count) < chance).astype(int)


confidence, right = rows(2000)
new_confidence, new_right = rows(4000)


def brier(probability):
    return float(np.mean((probability - new_right) ** 2))


raw = brier(new_confidence)
print(f"seen:     as it is: Brier score on new rows {raw:.3f}")
scores, shares, errors = {}, {}, {}
for method in (HistogramBinning, IsotonicRegression, ENIR, NearIsotonicRegression):
    calibrator = method()
    calibrator.fit(confidence, right)
    name, new = method.__name__, calibrator.transform(new_confidence).ravel()
    scores[name], shares[name] = brier(new), float(np.mean((new == 0) | (new == 1)))
    errors[name] = float(ECE(10).measure(calibrator.transform(confidence).ravel(), right))
    print(f"seen:     {name}: Brier score on new rows {scores[name]:.3f}, exactly 0 or 1 {shares[name]:.0%},", end=" ")
    print(f"calibration error on its training rows {errors[name]:.3f}")
assert all(scores[name] < raw for name in ("HistogramBinning", "IsotonicRegression", "ENIR"))
assert scores["NearIsotonicRegression"] > 1.5 * raw and shares["NearIsotonicRegression"] == 1.0
assert errors["NearIsotonicRegression"] < 1e-6
EOF
