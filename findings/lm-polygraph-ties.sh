#!/usr/bin/env bash
# The prediction-rejection ratio of an uncertainty that is the same for all answers is 1 or -1, by the order of the rows.
# Source: own run, 2026-11-30. The module is imported without its package, whose import asks for spacy and more.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet numpy==2.3.5 scipy==1.17.1
venv/bin/pip install --quiet --no-deps lm-polygraph==0.7.0

venv/bin/python - <<'EOF'
import site
import sys
import types
from importlib.metadata import version

import numpy as np

for name in ("lm_polygraph", "lm_polygraph.ue_metrics"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [f"{site.getsitepackages()[0]}/{name.replace('.', '/')}"]
from lm_polygraph.ue_metrics.pred_rej_area import PredictionRejectionArea  # noqa: E402
from lm_polygraph.ue_metrics.ue_metric import get_random_scores, normalize_metric  # noqa: E402

print("versions: lm-polygraph", version("lm-polygraph"))
print("guess:    an uncertainty that tells nothing has a ratio of 0")


def ratio(right):
    area = PredictionRejectionArea()
    same = np.ones(len(right))
    best = area(-np.array(right), right)
    return normalize_metric(area(same, right), best, get_random_scores(area, right, num_iter=200))


first, last = ratio([1.0] * 50 + [0.0] * 50), ratio([0.0] * 50 + [1.0] * 50)
print(f"seen:     right answers in the first rows {first:.2f}, in the last rows {last:.2f}")
assert first > 0.95 and last < -0.95
# Its random baseline sets numpy's global seed, so that whatever is drawn afterwards is the same each time.
drawn = []
for seed in (1, 2):
    np.random.seed(seed)
    get_random_scores(PredictionRejectionArea(), [0.0, 1.0], num_iter=10)
    drawn.append(np.random.random())
print(f"seen:     drawn after it under seed 1 and 2: {drawn}")
assert drawn[0] == drawn[1]
EOF
