"""TRL's DPOTrainer on the pairs of a regret buffer, at as many updates of as many pairs as ours: a control of the study.

python tests/benchmarks/trl_dpo.py --steps 40 --beta 2.5 --out models/trl      # in the project's folder
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stages"))
from anchora.model.adapters import named_base, policy_from_folder, read_adapter_config
from anchora.model.loading import load_causal_lm
from anchora.model.lora import save_adapter
from anchora.run.params import read_params
from anchora.update.params import UpdatePolicyParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--beta", type=float, required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    params = read_params(UpdatePolicyParams)
    sft = policy_from_folder(Path(params.output_dir) / "sft", params.output_dir)
    lines = Path("data/regret_buffer/round0.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [row for line in lines if (row := json.loads(line))["kind"] == "case"]
    rows = [
        {"prompt": row["prompt"], **{side: [{"role": "assistant", "content": row[side]["text"]}] for side in ("chosen", "rejected")}}
        for row in cases
    ]
    model, tokenizer = load_causal_lm(sft, params, trainable=True)  # SFT's adapter, of which TRL makes a frozen copy for the reference
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            "logs/trl_dpo", beta=args.beta, max_steps=args.steps, learning_rate=params.update_learning_rate, warmup_steps=0.1,
            per_device_train_batch_size=params.batch_size, gradient_accumulation_steps=params.grad_accum_steps, seed=params.seed,
            report_to=[], save_strategy="no", use_cpu=True, gradient_checkpointing=False, bf16=False,
            max_length=None, disable_tqdm=True, logging_steps=10,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    if sft.base is None:
        trainer.model.save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)
    else:
        save_adapter(args.out, model, tokenizer, named_base(read_adapter_config(sft.source)))


if __name__ == "__main__":
    main()
