#!/usr/bin/env bash
# A scorer with a chat template, loaded as a CrossEncoder, is asked with the roles "query" and "document", which templates do not know.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 sentence-transformers==6.2.0 jinja2==3.1.6

venv/bin/python - <<'EOF'
from importlib.metadata import version

import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

print("versions: sentence-transformers", version("sentence-transformers"), "transformers", version("transformers"))
print("guess:    predict([(prompt, answer)]) joins the two texts, or renders prompt as user and answer as assistant")
words = ["[pad]", "[user]", "[bot]", "[other]", "is", "sky", "blue"]
base = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[pad]"))
base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, pad_token="[pad]", unk_token="[pad]")
torch.manual_seed(0)
LlamaForSequenceClassification(
    LlamaConfig(
        vocab_size=7, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_labels=1, pad_token_id=0
    )
).save_pretrained("model")
seen = []
forward = LlamaForSequenceClassification.forward


def recorded(self, *arguments, **options):
    seen.append(" ".join(tokenizer.convert_ids_to_tokens(options["input_ids"][0])))
    return forward(self, *arguments, **options)


LlamaForSequenceClassification.forward = recorded
TEMPLATE = "{% for m in messages %}{{ {'user': '[user]', 'assistant': '[bot]'}.get(m.role, '[other]') }} {{ m.content }} {% endfor %}"
for template in (None, TEMPLATE):
    tokenizer.chat_template = template
    tokenizer.save_pretrained("model")
    scorer = CrossEncoder("model", device="cpu")
    score = scorer.predict([("is sky", "blue")], show_progress_bar=False)[0]
    print(f"seen:     {'with' if template else 'without'} a chat template the model reads: {seen[-1]}; score {score:.4f}")
assert seen[-2] == "is sky blue"
assert seen[-1] == "[other] is sky [other] blue"
EOF
