#!/usr/bin/env bash
# A value logged at the end without a step is not the run's value: that of the highest step stays.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1

venv/bin/python - <<'EOF'
import logging
from importlib.metadata import version

import mlflow

logging.disable(logging.INFO)
print("versions: mlflow-skinny", version("mlflow-skinny"))
print("guess:    a run shows the value of a metric that was logged last")
mlflow.set_tracking_uri("sqlite:///runs.db")
with mlflow.start_run() as run:
    for step in (0, 100, 200):
        mlflow.log_metric("accuracy", 0.5 + step / 1000, step=step)
    mlflow.log_metric("accuracy", 0.91)
shown = mlflow.get_run(run.info.run_id).data.metrics["accuracy"]
found = mlflow.search_runs(filter_string="metrics.accuracy > 0.9", output_format="list")
print(f"seen:     logged last: 0.91; the run shows {shown}; runs found with accuracy > 0.9: {len(found)}")
assert shown == 0.7 and not found
EOF
