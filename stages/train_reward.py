"""train_reward and train_judge: fine-tune a sequence classifier on preference pairs, by TRL's RewardTrainer.

    python stages/train_reward.py --member 0 --data preferences --pin encoder --out verifiers/0

Each member has its own head, order and share of the pairs. Held-out accuracy, ECE and Brier score go to
metrics/reward/<member>.json; a member below verifier_accuracy_floor stops the pipeline.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import datasets
import numpy as np
import torch
from torch.nn import functional
from trl import RewardConfig, RewardTrainer

from anchora.data.splits import question_id, split_share
from anchora.model.checkpoints import Checkpoints
from anchora.model.machine import use_machine
from anchora.model.pins import from_pin_file
from anchora.run.files import UserError, first_process, new_folder, read_jsonl, write_json
from anchora.run.params import read_params
from anchora.run.stage import log_params, run_stage, say
from anchora.training.sharding import gather_full_model, layer_classes_to_shard
from anchora.training.trainer import LengthGroupedSampler, train, trainer_settings
from anchora.uncertainty.reliability import brier, expected_calibration_error
from anchora.verifiers.ensemble import encode_pair, load_verifier, pad_inputs, pair_limit, score_pairs
from parameters.train_reward import TrainRewardParams

CUT_WARNING = 0.05  # share of a verifier's inputs that may be too long for it before a run says so


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--member", required=True, help="name of the member, also its seed; or judge")
    parser.add_argument("--data", required=True, choices=["preferences", "judge"])
    parser.add_argument("--pin", required=True, choices=["encoder", "judge"])
    parser.add_argument("--out", required=True, help="folder below output_dir")
    args = parser.parse_args()
    params = read_params(TrainRewardParams)
    log_params(params)
    use_machine(params)

    seed = member_seed(args.member, params.seed)
    training, held_out = pairs_of(args, seed, params)
    torch.manual_seed(seed)  # before the new head is drawn
    pretrained = from_pin_file(Path(params.output_dir) / "pins" / f"{args.pin}.json")
    model, tokenizer = load_verifier(pretrained, params, num_labels=1)
    model._no_split_modules = layer_classes_to_shard(model)
    model.train()
    limit = pair_limit(model, params.max_length)
    pairs = encode(training, tokenizer, limit, params.prompt_template)
    longest = [max(map(len, sides)) for sides in zip(pairs["chosen_ids"], pairs["rejected_ids"], strict=True)]
    checkpoints, order = Checkpoints(), LengthGroupedSampler(longest, params.batch_size * params.grad_accum_steps, seed)
    settings = RewardConfig(
        **trainer_settings(params, checkpoints, order, params.reward_learning_rate, params.reward_epochs),
        max_length=None,
        remove_unused_columns=False,
    )
    cut = float(np.mean([len(ids) >= limit for side in ("chosen_ids", "rejected_ids") for ids in pairs[side]]))
    trainer = SoftRewardTrainer(
        model=model,
        args=settings,
        train_dataset=pairs,
        processing_class=tokenizer,
        data_collator=PairCollator(tokenizer, model),
    )
    trainer.order = order
    train(trainer, checkpoints, [row["source"] for row in training])
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # it is measured as it will score: without autocast
    model = gather_full_model(model, lambda: load_verifier(pretrained, params, num_labels=1)[0]).eval()
    report = {**held_out_report(model, tokenizer, held_out, params), "inputs_cut": round(cut, 4)}
    write_json(f"metrics/reward/{args.member}.json", {"judge": report} if args.member == "judge" else {"reward": {args.member: report}})
    say(f"verifier {args.member}: held-out accuracy {report['accuracy']:.3f} on {report['pairs']} pairs")
    if cut > CUT_WARNING:
        say(f"verifier {args.member}: {cut:.0%} of its inputs fill its {limit} tokens; what is longer loses the start of its prompt")
    if report["accuracy"] < params.verifier_accuracy_floor:
        raise UserError(
            f"member {args.member}: held-out accuracy {report['accuracy']:.3f} on {report['pairs']} pairs is below "
            f"verifier_accuracy_floor = {params.verifier_accuracy_floor}: its word would be chance. Give it more pairs, more "
            f"reward_epochs or another {'judge' if args.pin == 'judge' else 'reward'}_model_name"
        )
    with new_folder(Path(params.output_dir) / args.out) as partial:
        if first_process():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)


def pairs_of(args: argparse.Namespace, seed: int, params: TrainRewardParams) -> tuple[list[dict], list[dict]]:
    """The pairs that this member is trained on, its own share where it is one of the ensemble, and those that measure it."""
    rows = read_jsonl(f"data/prepared/{args.data}.jsonl")
    held_out = [row for row in rows if split_share(question_id(row), "held out") < params.heldout_share]
    training = [row for row in rows if split_share(question_id(row), "held out") >= params.heldout_share]
    if args.data == "preferences":
        training = [row for row in training if split_share(question_id(row), f"member {seed}") < params.member_share]
    if not held_out or not training:
        raise UserError(
            f"data/prepared/{args.data}.jsonl: {len(rows)} pairs leave {len(training)} to train member {args.member} on and "
            f"{len(held_out)} held out (heldout_share = {params.heldout_share}, member_share = {params.member_share}); both need "
            "at least one"
        )
    return training, held_out


def member_seed(member: str, seed: int) -> int:
    """A seed of its own for every member."""
    return int(hashlib.sha256(f"{seed}:{member}".encode()).hexdigest()[:7], 16)


def encode(rows: list[dict], tokenizer, limit: int, template: str) -> datasets.Dataset:
    """Pairs as token ids in RewardTrainer's columns; ``label`` is how sure it is that chosen is better."""
    encoded = []
    for row in rows:
        first, second = (encode_pair(tokenizer, row["prompt"], row[side], limit, template) for side in ("response_a", "response_b"))
        prefers_a = row["label"] > 0.5
        encoded.append(
            {
                "chosen_ids": first if prefers_a else second,
                "rejected_ids": second if prefers_a else first,
                "label": max(row["label"], 1 - row["label"]),
            }
        )
    return datasets.Dataset.from_list(encoded)


class PairCollator:
    """Chosen rows first, then rejected ones, as RewardTrainer expects; with token types for encoders."""

    def __init__(self, tokenizer, model) -> None:
        self.tokenizer, self.model = tokenizer, model

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        ids = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
        inputs = pad_inputs(self.tokenizer, self.model, ids)
        return {**inputs, "label": torch.tensor([row["label"] for row in rows])}


class SoftRewardTrainer(RewardTrainer):
    """RewardTrainer for labels that may be fractions: cross-entropy against the label (Bradley-Terry)."""

    centre_weight = 0.01  # keeps scores near 0: Eisenstein et al. 2023, equation 4
    order: LengthGroupedSampler

    def _get_train_sampler(self, train_dataset=None):
        return self.order

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        label = inputs.pop("label")
        scores = model(**inputs).logits.squeeze(-1).float()
        chosen, rejected = scores.chunk(2)
        loss = functional.binary_cross_entropy_with_logits(chosen - rejected, label)
        loss = loss + self.centre_weight * (chosen + rejected).square().mean()
        return (loss, {"logits": scores}) if return_outputs else loss


def held_out_report(model, tokenizer, rows: list[dict], params: TrainRewardParams) -> dict:
    """Accuracy, ECE and Brier score of P(A preferred) on pairs that were not trained on."""
    pairs = [(row["prompt"], row[side]) for side in ("response_a", "response_b") for row in rows]
    scores = score_pairs(model, tokenizer, pairs, params)
    difference = scores[: len(rows)] - scores[len(rows) :]
    label = np.array([row["label"] for row in rows])
    right = (difference > 0) == (label > 0.5)
    probability = 1 / (1 + np.exp(-difference))
    return {
        "accuracy": round(float(right.mean()), 4),
        "ece": round(expected_calibration_error(probability, label > 0.5), 4),
        "brier": round(brier(probability, label), 4),
        "pairs": len(rows),
    }


if __name__ == "__main__":
    run_stage(main)
