#!/usr/bin/env bash
# What dvc exp run -S writes into params.yaml is another value, or text, for a stage that reads the file with PyYAML.
# DVC writes YAML 1.2 and PyYAML reads 1.1; the sharpest: 0.00001 is written 1e-05, which PyYAML takes for text.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet dvc==3.67.1 pyyaml==6.0.3 ruamel.yaml==0.19.1
export PATH="$work/venv/bin:$PATH" DVC_NO_ANALYTICS=1

mkdir project
cd project
git init --quiet
git config user.name name
git config user.email name@example.com
dvc init --quiet
cat > params.yaml <<'EOF'
learning_rate: 0.001
revision: main
mode: fast
EOF
cat > train.py <<'EOF'
import yaml
print("read:", yaml.safe_load(open("params.yaml")))
EOF
cat > dvc.yaml <<'EOF'
stages:
  train:
    cmd: python train.py
    params: [learning_rate, revision, mode]
EOF
git add .
git commit --quiet --message start
python - <<'EOF'
from importlib.metadata import version

print("versions:", *(f"{name} {version(name)}" for name in ("dvc", "pyyaml", "ruamel.yaml", "hydra-core")))
EOF
echo "guess:    -S learning_rate=0.00001 -S revision=12e45678 -S mode=on give a small number, that text, and the text 'on'"
dvc exp run --quiet -S learning_rate=0.00001 -S revision=12e45678 -S mode=on > "$work/log" 2>&1
sed 's/^/written:  /' params.yaml
sed -n 's/^read:/read:    /p' "$work/log" | tee "$work/seen"
grep --quiet "'learning_rate': '1e-05', 'revision': inf, 'mode': True" "$work/seen"
