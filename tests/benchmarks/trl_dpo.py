"""TRL's DPOTrainer on the pairs of a regret buffer, at as many updates of as many pairs as ours: controls of the study.

    python tests/benchmarks/trl_dpo.py --steps 40 --beta 2.5 --out models/trl      # in the project's folder

``--loss`` takes TRL's names. robust is told the share of wrong pairs that the calibration prompts rehearse, as label smoothing;
sigmoid_norm divides log-ratios by the tokens of a response, and has ``--beta`` times the mean of these for its beta. ``--easiest 0.5``
is selective DPO (arXiv 2502.09650): a policy trained on the other half of the pairs says which half is the easier one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stages"))
from anchora.data.splits import split_share
from anchora.model.adapters import named_base, policy_from_folder, read_adapter_config
from anchora.model.loading import load_causal_lm
from anchora.model.logps import response_logps
from anchora.model.lora import save_adapter
from anchora.regret.buffer import Case, buffer_line, read_buffer, responses_of
from anchora.run.files import read_json
from anchora.run.params import read_params
from anchora.update.params import UpdatePolicyParams

UNKNOWN_SHARE_WRONG = 0.1  # what robust DPO's authors recommend where nothing is known
LOSSES = ("sigmoid", "robust", "sigmoid_norm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--beta", type=float, required=True)
    parser.add_argument("--loss", choices=LOSSES, default="sigmoid")
    parser.add_argument("--easiest", type=float, default=1.0, help="share of the pairs that is trained on")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    params = read_params(UpdatePolicyParams)
    sft = policy_from_folder(Path(params.output_dir) / "sft", params.output_dir)
    cases = read_buffer("data/regret_buffer/round0.jsonl").cases
    options = {"loss_type": [args.loss], **loss_options(args.loss, args.beta, cases)}
    if args.easiest < 1:
        cases = easiest(cases, held_out_margins(cases, sft, args.steps, options, params), args.easiest)
    model, tokenizer = trained(cases, sft, args.steps, options, params)
    if sft.base is None:
        model.save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)
    else:
        save_adapter(args.out, model, tokenizer, named_base(read_adapter_config(sft.source)))


def loss_options(loss: str, beta: float, cases: Sequence[Case]) -> dict[str, float]:
    """Return what one of TRL's losses is given for a beta that means the same to each: by sums of log-probs, not means."""
    if loss == "robust":
        right = read_json("metrics/regret/round0.json")["regret"]["round0"]["rehearsed_right"]
        return {"beta": beta, "label_smoothing": UNKNOWN_SHARE_WRONG if right is None else min(0.49, 1 - right)}
    if loss == "sigmoid_norm":
        return {"beta": beta * float(np.mean([len(response["ids"]) for case in cases for response in responses_of(case)]))}
    return {"beta": beta}


def trained(cases: Sequence[Case], sft, steps: int, options: dict, params: UpdatePolicyParams) -> tuple:
    """Return the SFT policy after ``steps`` updates by DPOTrainer on ``cases``, and its tokenizer."""
    rows = [
        {"prompt": row["prompt"], **{side: [{"role": "assistant", "content": row[side]["text"]}] for side in ("chosen", "rejected")}}
        for row in cases
    ]
    model, tokenizer = load_causal_lm(sft, params, trainable=True)  # SFT's adapter, of which TRL makes a frozen copy for the reference
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            "logs/trl_dpo", max_steps=steps, learning_rate=params.update_learning_rate, warmup_steps=0.1,
            per_device_train_batch_size=params.batch_size, gradient_accumulation_steps=params.grad_accum_steps, seed=params.seed,
            report_to=[], save_strategy="no", use_cpu=True, gradient_checkpointing=False, bf16=False,
            max_length=None, disable_tqdm=True, logging_steps=10, **options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    return trainer.model, tokenizer


def held_out_margins(cases: Sequence[Case], sft, steps: int, options: dict, params: UpdatePolicyParams) -> np.ndarray:
    """Return each pair's log-ratio margin, (cases,) nats, by a policy that was trained on the half of the pairs without it."""
    first = np.array([split_share(case["id"], "selective") < 0.5 for case in cases])
    margins = np.zeros(len(cases))
    for held_out in (first, ~first):
        model, tokenizer = trained([case for case, out in zip(cases, held_out, strict=True) if not out], sft, steps, options, params)
        rows = [case for case, out in zip(cases, held_out, strict=True) if out]
        logps = response_logps(model.eval(), [buffer_line(row) for row in rows], tokenizer.pad_token_id, params.update_batch_tokens)
        margins[held_out] = [margin(row, row_logps) for row, row_logps in zip(rows, logps, strict=True)]
    return margins


def margin(case: Case, logps: Sequence[Sequence[float]]) -> float:
    """Return the log-ratio of chosen over rejected, nats, by a policy's log-probs of the tokens of each."""
    chosen, rejected = (sum(own) - sum(row["reference_logps"]) for own, row in zip(logps, responses_of(case), strict=True))
    return chosen - rejected


def easiest(cases: Sequence[Case], margins: np.ndarray, share: float) -> list[Case]:
    """Return the ``share`` of the cases whose held-out margins, (cases,), are largest, so whose DPO loss is least, in their order."""
    kept = np.argsort(-margins, kind="stable")[: max(1, round(share * len(cases)))]
    return [cases[index] for index in sorted(kept)]


if __name__ == "__main__":
    main()
