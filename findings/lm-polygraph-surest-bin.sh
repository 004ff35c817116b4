#!/usr/bin/env bash
# The binned confidence of the surest answer is that of the least sure ones.
# The smallest uncertainty, and all below it, fall before the first edge and so into bin -1, the last.
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

for name in ("lm_polygraph", "lm_polygraph.normalizers"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [f"{site.getsitepackages()[0]}/{name.replace('.', '/')}"]
from lm_polygraph.normalizers.binned_pcc import BinnedPCCNormalizer  # noqa: E402

print("versions: lm-polygraph", version("lm-polygraph"))
print("guess:    confidence falls as uncertainty rises, and the surest answer has the highest")
generator = np.random.default_rng(0)
uncertainty = generator.random(1000)
right = (generator.random(1000) > uncertainty).astype(float)
normalizer = BinnedPCCNormalizer()
normalizer.fit(right, uncertainty, num_bins=10)
bins = normalizer.params["binned_metric"]
least = uncertainty.min()
surest, next_to_it, new = normalizer.transform(np.array([least, least + 1e-9, 0.0]))
print(f"seen:     right in the first bin {bins[0]:.2f}, in the last {bins[-1]:.2f}")
print(f"seen:     confidence of the least uncertainty {surest:.2f}, of one a hair above {next_to_it:.2f}, of a new one below {new:.2f}")
assert bins[0] > 0.8 and bins[-1] < 0.2
assert next_to_it == bins[0] and surest == new == bins[-1]
EOF
