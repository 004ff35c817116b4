#!/usr/bin/env bash
# Fewer references than hypotheses: only the first ones are scored. So are references nested by sample, as torchmetrics takes them.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet sacrebleu==2.6.0

venv/bin/python - <<'EOF'
from importlib.metadata import version

import sacrebleu

print("versions: sacrebleu", version("sacrebleu"))
print("guess:    lists of other lengths are an error")
references = ["the cat sat on the mat", "it was blue all day long", "nobody came to the party"]
hypotheses = [references[0], "entirely wrong words stand here", "and here again some more"]
for name, nested in (
    ("one list of all references", [references]),
    ("the last two references lost", [references[:1]]),
    ("one list a sample", [[reference] for reference in references]),
):
    bleu = sacrebleu.corpus_bleu(hypotheses, nested)
    print(f"seen:     {name}: BLEU {bleu.score:.1f}, of {bleu.sys_len} words")
    assert (bleu.score, bleu.sys_len) == (bleu.score, 16) if nested == [references] else (round(bleu.score), bleu.sys_len) == (100, 6)
assert sacrebleu.corpus_bleu(hypotheses, [references]).score < 40
assert sacrebleu.corpus_ter(hypotheses, [references[:1]]).score == 0.0
EOF
