#!/usr/bin/env bash
# A null of params.yaml stands in a stage's command as the word None, alone and in an unpacked dictionary: a system prompt or a stop string
# that is to be absent is the text "None" for the program. true is "true" alone, a bare option in a dictionary, and "True" in its lists.
# It bites who hands parameters to a script by ${...}, where an option that is absent would take its default.
# Source: own run, 2026-12-01.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet dvc==3.67.1
export PATH="$work/venv/bin:$PATH" DVC_NO_ANALYTICS=1

mkdir project
cd project
git init --quiet
dvc init --quiet
cat > params.yaml <<'EOF'
system_prompt: null
greedy: true
sampling:
  system_prompt: null
  seed: 1
  greedy: true
  by_task: [true, null]
EOF
cat > sample.py <<'EOF'
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--system-prompt", "--system_prompt", default="You are helpful.")
parser.add_argument("--greedy", nargs="?", const="(bare)")
parser.add_argument("--seed", type=int)
parser.add_argument("--by_task", nargs="*")
print("read:", vars(parser.parse_args()))
EOF
cat > dvc.yaml <<'EOF'
stages:
  alone:
    cmd: python sample.py --system-prompt ${system_prompt} --greedy ${greedy}
  unpacked:
    cmd: python sample.py ${sampling}
EOF
python -c 'from importlib.metadata import version; print("versions: dvc", version("dvc"))'
echo "guess:    a null is left out of an unpacked dictionary, and is empty or an error alone"
for stage in alone unpacked; do
    dvc repro "$stage" > log
    sed -n "s/^read:/seen:     $stage:/p" log | tee "seen-$stage"
done
grep --quiet "'system_prompt': 'None', 'greedy': 'true'" seen-alone
grep --quiet "'system_prompt': 'None', 'greedy': '(bare)', 'seed': 1, 'by_task': \['True', 'None'\]" seen-unpacked
