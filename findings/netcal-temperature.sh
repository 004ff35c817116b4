#!/usr/bin/env bash
# TemperatureScaling's temperature multiplies the logits; elsewhere they are divided by it. Below 1 it makes a model less sure.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 netcal==1.4.0

venv/bin/python - <<'EOF'
import warnings
from importlib.metadata import version

import numpy as np
from netcal.scaling import TemperatureScaling
from scipy.special import expit, logit

warnings.filterwarnings("ignore")
print("versions: netcal", version("netcal"))
print("guess:    logits three times too large are mended by a temperature of about 3")
generator = np.random.default_rng(0)
true = generator.uniform(0.02, 0.98, 5000)
labels = (generator.random(5000) < true).astype(int)
oversure = expit(3 * logit(true))
scaling = TemperatureScaling()
scaling.fit(oversure, labels)
temperature = float(np.ravel(scaling.temperature)[0])
mended = float(np.ravel(scaling.transform(np.array([0.999])))[0])
print(f"seen:     temperature {temperature:.3f}; 0.999 becomes {mended:.3f}, which is logit times temperature: "
      f"{expit(logit(0.999) * temperature):.3f}, and not logit over it: {expit(logit(0.999) / temperature):.3f}")
assert abs(temperature - 1 / 3) < 0.05
assert abs(mended - expit(logit(0.999) * temperature)) < 1e-3
EOF
