#!/usr/bin/env bash
# MAPIE's expected_calibration_error by split_strategy="array split" cuts the rows as they come, not by score: nearly all fall into one
# bin, and a reversed score has about no error. Sorted by score the same rows have 0.5. The mean error is what is left.
# It bites who asks for bins of equal size under that name; "uniform" (by default), "quantile" and top_label_ece do not mind the order.
# Source: own run, 2026-12-01.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet mapie==1.6.0 numpy==2.3.5 scikit-learn==1.9.1

venv/bin/python - <<'EOF'
from importlib.metadata import version

import numpy as np
from mapie.metrics.calibration import expected_calibration_error, top_label_ece

print("versions: mapie", version("mapie"), "numpy", version("numpy"))
print("guess:    a reversed score has an ECE of about 0.5 by every strategy, in whatever order the rows are")
dice = np.random.default_rng(0)
score = dice.random(4000)
right = (dice.random(4000) < score).astype(int)
order = np.argsort(score)
seen = {}
for strategy in ("uniform", "quantile", "array split"):
    how = {"num_bins": 10, "split_strategy": strategy}
    good = expected_calibration_error(right, score, **how)
    seen[strategy] = [expected_calibration_error((1 - right)[rows], score[rows], **how) for rows in (slice(None), order)]
    both = np.stack([1 - score, score], axis=1)
    top = [top_label_ece((1 - right)[rows], both[rows], **how) for rows in (slice(None), order)]
    print(f"seen:     {strategy}: calibrated {good:.3f}; reversed {seen[strategy][0]:.3f},", end=" ")
    print(f"sorted by score {seen[strategy][1]:.3f}; by top_label_ece {top[0]:.3f} and {top[1]:.3f}")
    assert min(top) > 0.48
assert min(seen["uniform"] + seen["quantile"]) > 0.48
assert seen["array split"][0] < 0.05 and seen["array split"][1] > 0.45
EOF
