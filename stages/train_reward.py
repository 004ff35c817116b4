"""train_reward and train_judge: fine-tune a sequence classifier on preference pairs, by TRL's RewardTrainer.

    python stages/train_reward.py --member 0 --data preferences --pin encoder --out verifiers/0

Each member has its own head, order and share of the pairs. A tenth of these only says which weights are kept: those of least loss
on it, whose course goes to metrics/curves/verifier_<member>.csv. Held-out accuracy, ECE and Brier score, and the accuracy before the
first update, go to metrics/reward/<member>.json; a member below verifier_accuracy_floor stops the pipeline. Where there are no
preferences there is no judge: its folder then says so.
"""

from __future__ import annotations

import anchora.model.quiet  # isort: skip  # noqa: F401  TRL imports bitsandbytes, where it is installed

import argparse
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from transformers import EvalPrediction
from trl import RewardConfig, RewardTrainer

from anchora.data.splits import share_of_questions
from anchora.model.machine import use_machine
from anchora.model.pins import from_pin_file
from anchora.model.seeds import derived_seed
from anchora.run.errors import UserError, located
from anchora.run.files import first_process, new_file, new_folder, read_jsonl, write_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.training.checkpoints import Checkpoints
from anchora.training.sharding import gather_full_model, layer_classes_to_shard
from anchora.training.trackers import tracking
from anchora.training.trainer import LengthGroupedSampler, keep_best_settings, train, trainer_settings
from anchora.uncertainty.reliability import brier, expected_calibration_error
from anchora.verifiers.pairs import encode_pair, max_pair_length, pad_inputs
from anchora.verifiers.scoring import load_verifier, score_pairs
from parameters.train_reward import TrainRewardParams

STOPPING_SHARE = 0.1  # of a member's pairs, by question: they only say which weights are kept
CURVE = ("step", "accuracy", "ece", "loss")  # columns of metrics/curves/verifier_<member>.csv
TRUNCATION_WARNING = 0.05  # share of a verifier's inputs that may be too long for it before a run says so


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

    if args.data == "judge" and not read_jsonl("data/prepared/judge.jsonl"):
        write_no_judge(Path(params.output_dir) / args.out)
        return
    seed = derived_seed(params.seed, "member", args.member)
    training, held_out = split_pairs(args, seed, params)
    torch.manual_seed(seed)  # before the new head is drawn
    pretrained = from_pin_file(Path(params.output_dir) / "pins" / f"{args.pin}.json")
    model, tokenizer = load_verifier(pretrained, params, new_head=True)
    limit = max_pair_length(model, params.max_length)
    accuracy_before = held_out_report(model, tokenizer, held_out, params)["accuracy"]
    training, stopping = split_stopping(training)
    pairs, stopping_pairs = (encode_pairs(rows, tokenizer, limit, params.prompt_template) for rows in (training, stopping))
    curve = fine_tune(model, tokenizer, pairs, stopping_pairs, [row["source"] for row in training], seed, params)
    model = gather_full_model(model, lambda: load_verifier(pretrained, params, new_head=True)[0]).eval()

    truncated = float(np.mean([len(ids) >= limit for side in ("chosen_ids", "rejected_ids") for ids in pairs[side]]))
    report = held_out_report(model, tokenizer, held_out, params)
    report |= {"accuracy_before": accuracy_before, "inputs_cut": round(truncated, 4)}
    write_json(f"metrics/reward/{args.member}.json", {"judge": report} if args.member == "judge" else {"reward": {args.member: report}})
    write_curve(args.member, curve)
    say(f"verifier {args.member}: held-out accuracy {report['accuracy']:.3f} on {report['pairs']} pairs")
    if truncated > TRUNCATION_WARNING:
        say(f"verifier {args.member}: {truncated:.0%} of its inputs fill its {limit} tokens; what is longer loses the start of its prompt")
    check_accuracy(report, args, params)
    with new_folder(Path(params.output_dir) / args.out) as partial:
        if first_process():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)


def write_no_judge(folder: Path) -> None:
    """Write what stands for a judge where no preferences came to train one on: a folder without a model, and no figures."""
    with new_folder(folder) as partial:
        write_json(partial / "no_judge.json", {"pairs": 0})
    write_json("metrics/reward/judge.json", {"judge": {"pairs": 0}})
    write_curve("judge", [])
    say("judge: preference_data_path is empty, so none is trained")


def split_pairs(args: argparse.Namespace, seed: int, params: TrainRewardParams) -> tuple[list[dict], list[dict]]:
    """Read the pairs that this member is trained on, its own share if it is one of the ensemble, and those that measure it.

    Raises UserError where one of the two is empty.
    """
    rows = read_jsonl(f"data/prepared/{args.data}.jsonl")
    held_out, training = share_of_questions(rows, "held out", params.heldout_share)
    if args.data == "preferences":
        training, _ = share_of_questions(training, f"member {seed}", params.member_share)
    if not held_out or not training:
        raise UserError(
            f"data/prepared/{args.data}.jsonl: {len(rows)} pairs leave {len(training)} to train member {args.member} on and "
            f"{len(held_out)} held out (heldout_share = {params.heldout_share}, member_share = {params.member_share}); both need "
            "at least one"
        )
    return training, held_out


def split_stopping(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Return the pairs to train on, and those that say which weights are kept; of very few pairs all of them are both."""
    stopping, training = share_of_questions(rows, "stopping", STOPPING_SHARE)
    return (training, stopping) if training and stopping else (rows, rows)


def write_curve(member: str, curve: list[dict]) -> None:
    """Write what DVC draws of a member: accuracy, ECE and loss on its stopping pairs along training."""
    with new_file(f"metrics/curves/verifier_{member}.csv") as partial:
        pd.DataFrame(curve, columns=list(CURVE)).to_csv(partial, index=False, float_format="%.6g")


def encode_pairs(rows: list[dict], tokenizer, limit: int, template: str) -> datasets.Dataset:
    """Encode pairs to RewardTrainer's columns ``chosen_ids`` and ``rejected_ids``, and a ``label`` of 0.5 to 1.

    The label is the probability that chosen is better; the response that the row's own label prefers is chosen.
    """
    encoded = []
    for row in rows:
        with located(row["source"]):
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


def fine_tune(
    model, tokenizer, pairs: datasets.Dataset, stopping_pairs: datasets.Dataset, locations: list[str], seed: int, params: TrainRewardParams
) -> list[dict]:
    """Train ``model`` in place on encoded pairs, to the weights of least loss on ``stopping_pairs``; return the course of those.

    ``locations`` name the rows of ``pairs`` in the data for errors.
    """
    model._no_split_modules = layer_classes_to_shard(model)
    model.train()
    longest = [max(map(len, sides)) for sides in zip(pairs["chosen_ids"], pairs["rejected_ids"], strict=True)]
    checkpoints, order = Checkpoints(), LengthGroupedSampler(longest, params.batch_size * params.grad_accum_steps, seed)
    settings = RewardConfig(
        **trainer_settings(params, checkpoints, order, params.reward_learning_rate, params.reward_epochs)
        | keep_best_settings(checkpoints, params.batch_size),
        max_length=None,
        remove_unused_columns=False,
    )
    trainer = SoftRewardTrainer(
        model=model,
        args=settings,
        train_dataset=pairs,
        eval_dataset=stopping_pairs,
        compute_metrics=pair_metrics,
        processing_class=tokenizer,
        data_collator=PairCollator(tokenizer, model),
    )
    trainer.order, trainer.label_names = order, ["label"]
    with tracking(params.trackers, params.log_dir) as track:
        train(trainer, checkpoints, locations, track)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # it is measured as it will score: without autocast
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    return [{"step": entry["step"], **{name: entry[f"eval_{name}"] for name in CURVE[1:]}} for entry in measured]


def pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return accuracy and ECE of score differences of chosen over rejected, (pairs,), whose labels are from 0.5 to 1.

    ECE is that of the probability of the first response, so that a pair stands once each way.
    """
    differences = np.asarray(prediction.predictions, dtype=float)
    probability = 1 / (1 + np.exp(-np.concatenate([differences, -differences])))
    first = np.repeat([True, False], len(differences))
    return {"accuracy": float((differences > 0).mean()), "ece": expected_calibration_error(probability, first)}


class PairCollator:
    """Pads chosen inputs, then rejected ones, to one batch as RewardTrainer expects; with token types for encoders."""

    def __init__(self, tokenizer, model) -> None:
        self.tokenizer, self.model = tokenizer, model

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        ids = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
        inputs = pad_inputs(self.tokenizer, self.model, ids)
        return {**inputs, "label": torch.tensor([row["label"] for row in rows])}


class SoftRewardTrainer(RewardTrainer):
    """RewardTrainer for labels that may be fractions: cross-entropy against the label (Bradley-Terry).

    It takes the examples in the order of a ``LengthGroupedSampler``.
    """

    center_rewards_coefficient = 0.01  # keeps scores near 0: Eisenstein et al. 2023, equation 4
    order: LengthGroupedSampler

    def _get_train_sampler(self, train_dataset=None):
        return self.order

    def _determine_best_metric(self, metrics, trial):
        """Return whether to save: a new least loss, or what a callback has asked for, which transformers would else forget."""
        return super()._determine_best_metric(metrics, trial) or self.control.should_save

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        label = inputs.pop("label")
        scores = model(**inputs).logits.squeeze(-1).float()
        chosen, rejected = scores.chunk(2)
        loss = functional.binary_cross_entropy_with_logits(chosen - rejected, label)
        loss = loss + self.center_rewards_coefficient * (chosen + rejected).square().mean()
        return (loss, {"differences": chosen - rejected}) if return_outputs else loss


def held_out_report(model, tokenizer, rows: list[dict], params: TrainRewardParams) -> dict:
    """Measure a verifier on pairs that it was not trained on: accuracy, and ECE and Brier score of its P(A preferred)."""
    pairs = [(row["prompt"], row[side]) for side in ("response_a", "response_b") for row in rows]
    scores = score_pairs(model, tokenizer, pairs, params, [row["source"] for row in rows] * 2)
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


def check_accuracy(report: dict, args: argparse.Namespace, params: TrainRewardParams) -> None:
    """Raise UserError for a member whose held-out accuracy is below ``verifier_accuracy_floor``."""
    if report["accuracy"] < params.verifier_accuracy_floor:
        raise UserError(
            f"member {args.member}: held-out accuracy {report['accuracy']:.3f} on {report['pairs']} pairs is below "
            f"verifier_accuracy_floor = {params.verifier_accuracy_floor}: its word would be chance. Give it more pairs, more "
            f"reward_epochs or another {'judge' if args.pin == 'judge' else 'reward'}_model_name"
        )


if __name__ == "__main__":
    run_stage(main)
