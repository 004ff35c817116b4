#!/usr/bin/env bash
# class_encode_column numbers whole numbers by their spelling: of ratings 1 to 10, 10 becomes class 1, and 2 becomes class 2.
# It bites who trains a reward model or a classifier on ratings, or computes with the encoded classes.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet datasets==5.2.0

venv/bin/python - <<'EOF'
from importlib.metadata import version

from datasets import Dataset, disable_progress_bars

disable_progress_bars()
print("versions: datasets", version("datasets"))
print("guess:    the classes of a column of whole numbers come in the order of the numbers: 1 is class 0, 10 is class 9")
ratings = Dataset.from_dict({"rating": list(range(1, 11))})
encoded = ratings.class_encode_column("rating")
classes = dict(zip(ratings["rating"][:], encoded["rating"][:]))
print("seen:     rating to class", classes)
sorted_back = [rating for rating, _ in sorted(classes.items(), key=lambda pair: pair[1])]
print("seen:     by class, lowest first:", sorted_back)
signed = Dataset.from_dict({"margin": [-10, -2, -1, 0, 1, 2]}).class_encode_column("margin")
print("seen:     the margins -10, -2, -1, 0, 1, 2 become", signed["margin"][:])
assert classes[10] == 1 and classes[2] == 2 and classes[9] == 9
assert signed["margin"][:] == [1, 2, 0, 3, 4, 5]
EOF
