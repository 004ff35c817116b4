#!/usr/bin/env bash
# PiSSA (or OLoRA) takes a part out of the base weights. DPOTrainer's reference, the model without its adapter, lacks that part; and a
# trained PiSSA adapter is given a copy as the reference, by which the part is taken out twice: what is trained is not the model passed,
# and the adapter saved after it gives another model when loaded. Nothing warns.
# It bites who trains a PiSSA adapter by SFT or DPO in TRL.
# Source: own run, 2026-12-01.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0 datasets==5.2.0

venv/bin/python - <<'EOF'
import tempfile
import warnings
from importlib.metadata import version

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import DPOConfig, DPOTrainer

disable_progress_bars()
warnings.simplefilter("ignore")
print("versions: trl", version("trl"), "peft", version("peft"), "transformers", version("transformers"))
print("guess:    before the first step policy and reference are the model passed: rewards 0, loss ln 2, whatever LoRA begins with")
vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", *(f"w{i}" for i in range(62))])}
words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
dice = torch.Generator().manual_seed(0)
ids = torch.randint(2, 64, (8, 12), generator=dice)


def text(row):
    return "".join(f" w{i - 2}" for i in row.tolist())


pairs = Dataset.from_list([{"prompt": text(row[:4]), "chosen": text(row[4:8]), "rejected": text(row[8:])} for row in ids])


def base():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, eos_token_id=1, initializer_range=0.2, **shape))


def lora(start):
    return LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", init_lora_weights=start, task_type="CAUSAL_LM")


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def off(first, second):
    return (first - second).square().mean().sqrt().item()


def trainer(model, **more):
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "bf16": False}
    args = DPOConfig(tempfile.mkdtemp(), max_steps=1, learning_rate=0.0, **quiet)
    dpo = DPOTrainer(model, args=args, train_dataset=pairs, eval_dataset=pairs, processing_class=tokenizer, **more)
    dpo.remove_callback(PrinterCallback)
    return dpo


rewards, drift = {}, {}
for start in (True, "pissa", "olora"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fresh = trainer(base(), peft_config=lora(start)).evaluate()
        rewards[start] = max(abs(fresh["eval_rewards/chosen"]), abs(fresh["eval_rewards/rejected"]))
        said = sum("base weights" in str(one.message) for one in caught)
    print(f"seen:     {start}, new adapter: loss {fresh['eval_loss']:.4f}, rewards {fresh['eval_rewards/chosen']:.3f} and", end=" ")
    print(f"{fresh['eval_rewards/rejected']:.3f}, warnings on it {said}")
    assert said == 0

    tuned = get_peft_model(base(), lora(start))
    for weight in tuned.parameters():
        if weight.requires_grad:
            weight.data += 0.01 * torch.randn(weight.shape, generator=dice)
    wanted = logits(tuned)
    folder = tempfile.mkdtemp()
    tuned.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base(), folder, is_trainable=True)
    assert off(logits(loaded), wanted) < 1e-4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dpo = trainer(loaded)
        said = sum("base weights" in str(one.message) for one in caught)
    drift[start] = off(logits(dpo.model), wanted)
    dpo.train()  # at learning rate 0
    dpo.save_model(folder + "/after")
    again = logits(PeftModel.from_pretrained(base(), folder + "/after"))
    print(f"seen:     {start}, trained adapter: the policy is off the model passed by {drift[start]:.3f} (tuning moved it by", end=" ")
    print(f"{off(wanted, logits(base())):.3f}), saved and loaded off the policy by {off(again, logits(dpo.model)):.3f}, warnings {said}")
    assert off(again, wanted) < 1e-4 and said == 0
assert rewards[True] < 1e-5 and drift[True] < 1e-4
assert all(rewards[start] > 0.01 and drift[start] > 0.1 for start in ("pissa", "olora"))
EOF
