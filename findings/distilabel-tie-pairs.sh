#!/usr/bin/env bash
# distilabel's DPO formatters take the highest rating as chosen and the lowest as rejected, each the first of its kind: a judge's tie makes
# a pair of a generation and itself. So does a rating that is not a number and comes first. The pairs are neither dropped nor marked.
# It bites who trains on pairs from a judge's ratings: they count as data, have no preference, and as chosen go into an SFT term.
# Source: own run, 2026-12-01.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet distilabel==1.5.3 datasets==5.2.0 requests==2.34.2 pillow==13.0.0

venv/bin/python - 2>log <<'EOF' || { cat log; exit 1; }
import random
from importlib.metadata import version

from distilabel.steps import FormatChatGenerationDPO, FormatTextGenerationDPO

print("versions: distilabel", version("distilabel"))
print("guess:    with equal ratings there is no pair, or at least one of two generations")


def pair(ratings, step):
    row = {"generations": [f"answer {i}" for i in range(len(ratings))], "generation_models": ["model"] * len(ratings), "ratings": ratings}
    row |= {"instruction": "ask", "messages": [{"role": "user", "content": "ask"}]}
    step.load()
    made = next(step.process([row]))[0]
    return made["chosen"][-1]["content"], made["rejected"][-1]["content"], made["chosen_rating"], made["rejected_rating"]


seen = {}
for ratings in ([4, 2], [3, 3], [5, 5, 5], [float("nan"), 2, 5], [2, float("nan"), 5]):
    text, chat = (pair(ratings, step()) for step in (FormatTextGenerationDPO, FormatChatGenerationDPO))
    seen[str(ratings)] = text
    assert str(text) == str(chat)
    print(f"seen:     ratings {ratings}: chosen {text[0]!r} ({text[2]}), rejected {text[1]!r} ({text[3]})")
dice = random.Random(0)
drawn = [pair([dice.randint(1, 5), dice.randint(1, 5)], FormatTextGenerationDPO()) for _ in range(500)]
same = sum(chosen == rejected for chosen, rejected, *_ in drawn)
print(f"seen:     of 500 rows with two ratings from 1 to 5 all {len(drawn)} give a pair, {same} of them of one generation and itself")
assert seen["[4, 2]"][:2] == ("answer 0", "answer 1") and seen["[2, nan, 5]"][:2] == ("answer 2", "answer 0")
assert all(seen[ratings][:2] == ("answer 0", "answer 0") for ratings in ("[3, 3]", "[5, 5, 5]", "[nan, 2, 5]"))
assert 70 < same < 130
EOF
