"""TRL's DPOTrainer on the pairs of a regret buffer, at as many updates of as many pairs as ours: a control of the study.

python tests/benchmarks/trl_dpo.py --steps 40 --beta 2.5 --out models/trl      # in the project's folder
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--beta", type=float, required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    params = yaml.safe_load(Path("params.yaml").read_text())
    sft = Path(params["output_dir"]) / "sft"
    lines = Path("data/regret_buffer/round0.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [row for line in lines if (row := json.loads(line))["kind"] == "case"]
    rows = [
        {"prompt": row["prompt"], **{side: [{"role": "assistant", "content": row[side]["text"]}] for side in ("chosen", "rejected")}}
        for row in cases
    ]
    tokenizer = AutoTokenizer.from_pretrained(sft)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(sft),
        args=DPOConfig(
            "logs/trl_dpo", beta=args.beta, max_steps=args.steps, learning_rate=params["update_learning_rate"], warmup_steps=0.1,
            per_device_train_batch_size=params["batch_size"], gradient_accumulation_steps=params["grad_accum_steps"],
            seed=params["seed"], report_to=[], save_strategy="no", use_cpu=True, gradient_checkpointing=False, bf16=False,
            max_length=None, disable_tqdm=True, logging_steps=10,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    trainer.model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
