"""sft: fine-tune the base model on the SFT data, by TRL's SFTTrainer.

    python stages/sft.py

The loss is on completions only, or on every answer of a conversation (assistant_loss), their end-of-sequence
tokens included. Prompts are rendered by the tokenizer's chat template, or by prompt_template where it has none.
Writes ${output_dir}/sft, the reference of all that follows (with lora_rank above 0, an adapter alone), and
metrics/sft.json.
"""

from __future__ import annotations

import anchora.model.quiet  # isort: skip  # noqa: F401  TRL imports bitsandbytes, where it is installed

import copy
import sys
from collections.abc import Set
from pathlib import Path

import datasets
import torch
import trl.trainer.utils
from trl import SFTConfig, SFTTrainer

from anchora.model.adapters import base_name
from anchora.model.capabilities import check_head, check_lora
from anchora.model.layers import compile_layers
from anchora.model.loading import check_positions, end_tokens, load_causal_lm, save_policy
from anchora.model.lora import add_lora, as_plain_model, save_adapter
from anchora.model.machine import autocast, device, training_dtype, use_machine
from anchora.model.pins import Pretrained, from_pin
from anchora.model.seeds import derived_seed
from anchora.run.errors import UserError, located
from anchora.run.files import read_json, read_jsonl, write_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.training.checkpoints import Checkpoints
from anchora.training.conversations import answered_turns, fold_turns
from anchora.training.sharding import full_tensor, gather_full_model
from anchora.training.trackers import tracking
from anchora.training.trainer import LengthGroupedSampler, train, trainer_settings
from anchora.uncertainty.dropout import check_dropout
from parameters.sft import SftParams

TILE = 4096  # columns of logits that the loss holds at once, some ten times over, where Triton does not run


def main() -> None:
    params = read_params(SftParams)
    log_params(params)
    use_machine(params)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    pin = read_json(Path(params.output_dir) / "pins" / "policy.json")
    pretrained = from_pin(pin)
    model, tokenizer = load_base(pretrained, params)
    model.to(device())
    with autocast(params.use_bf16):  # what scoring could not serve is told before hours of training, not after
        check_head(model, tokenizer.pad_token_id)
        check_dropout(model)
    config = copy.deepcopy(model.config)
    model = with_lora(model, pretrained, params)
    if params.lora_rank:
        with autocast(params.use_bf16):
            check_lora(model, tokenizer.pad_token_id)
    if params.compile_layers:
        compile_layers(model)
    rows, dropped = encode_rows(tokenizer, read_jsonl("data/prepared/sft.jsonl"), params, end_tokens(model, tokenizer))
    trainer, loss = fine_tune(model, tokenizer, rows, params)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if params.lora_rank:
        save_adapter(Path(params.output_dir) / "sft", model, tokenizer, base_name(pin.get("base", pin)), full_tensor)
    else:
        model = gather_full_model(model, lambda: load_base(pretrained, params)[0])
        model.config = config  # without what training sets there for itself: no cache, and of mixtures of experts the router's scores
        save_policy(Path(params.output_dir) / "sft", model, tokenizer)
    figures = {
        "loss": round(loss, 6),
        "examples": len(rows),
        "dropped_overlong": dropped,
        "mean_tokens": round(sum(len(row["input_ids"]) for row in rows) / len(rows), 2),
        "steps": trainer.state.global_step,
    }
    write_json("metrics/sft.json", {"sft": figures})
    say(f"sft: {len(rows)} examples, mean loss {loss:.4f}")


def load_base(pretrained: Pretrained, params: SftParams) -> tuple:
    """Load the base model, which must read ``max_length`` tokens, and its tokenizer.

    A base that is an adapter itself comes with it: to be trained on, or merged where all weights are trained. PEFT leaves those frozen.
    """
    model, tokenizer = load_causal_lm(pretrained, params, training_dtype(params.use_bf16, params.lora_rank), trainable=True)
    check_positions(model, params.max_length, pretrained)
    if pretrained.base is not None and not params.lora_rank:
        model = as_plain_model(model).requires_grad_(True)
    return model, tokenizer


def with_lora(model, pretrained: Pretrained, params: SftParams):
    """Return ``model`` to be trained, with fresh LoRA adapters if they are asked for and it has none.

    Raises UserError for an adapter of another rank or alpha than the parameters name.
    """
    if pretrained.base is None or not params.lora_rank:
        return add_lora(model, params.lora_rank, params.lora_alpha, derived_seed(params.seed, "sft adapters"))
    own = model.peft_config["default"]
    if (own.r, own.lora_alpha) != (params.lora_rank, params.lora_alpha):
        raise UserError(
            f"base_model_name: adapter {pretrained.source} has rank {own.r} and alpha {own.lora_alpha}: to train it on, set lora_rank: "
            f"{own.r} and lora_alpha: {own.lora_alpha}; to merge it and train every weight, lora_rank: 0"
        )
    return model


def encode_rows(tokenizer, rows: list[dict], params: SftParams, ends: Set[int] = frozenset()) -> tuple[list[dict], int]:
    """Return each example's ``input_ids``, ``labels`` (-100 but on answers) and ``source``, and how many answers were too far back.

    With ``assistant_loss`` all, every answer of a conversation is trained on; ``ends`` are the tokens that end a response, beside the
    tokenizer's own. Raises UserError for an answer that ends behind ``max_length``, unless ``overlong_prompts`` is drop, and where
    none is left.
    """
    encoded, dropped, turn_count = [], 0, 0
    for row in rows:
        with located(row["source"]):
            turns = answered_turns(tokenizer, row, params.prompt_template, params.enable_thinking, params.assistant_loss == "all")
        lengths = [len(turn.prompt) + len(turn.answer) for turn in turns]
        fitting = [turn for turn, length in zip(turns, lengths, strict=True) if length <= params.max_length]
        if len(fitting) < len(turns) and params.overlong_prompts == "error":
            longer = next(length for length in lengths if length > params.max_length)
            raise UserError(
                f"{row['source']}: field 'prompt' and its completion: {longer} tokens, more than "
                f"max_length = {params.max_length}; raise max_length, or set overlong_prompts to drop"
            )
        dropped += len(turns) - len(fitting)
        turn_count += len(fitting)
        encoded += [{**example, "source": row["source"]} for example in fold_turns(fitting, ends | {tokenizer.eos_token_id})]
    if not encoded:
        raise UserError(f"data/prepared/sft.jsonl: all {len(rows)} examples are longer than max_length = {params.max_length}")
    if params.assistant_loss == "all":
        say(f"sft: {turn_count} answers are trained on, in {len(encoded)} examples")
    return encoded, dropped


class OrderedSFTTrainer(SFTTrainer):
    """SFTTrainer that takes the examples in the order of a ``LengthGroupedSampler``."""

    order: LengthGroupedSampler

    def _get_train_sampler(self, train_dataset=None):
        return self.order


def fine_tune(model, tokenizer, rows: list[dict], params: SftParams) -> tuple[OrderedSFTTrainer, float]:
    """Train ``model`` in place on the rows of ``encode_rows``; return its trainer and the mean loss over all updates."""
    checkpoints = Checkpoints()
    order = LengthGroupedSampler(
        [len(row["input_ids"]) for row in rows], params.batch_size * params.grad_accum_steps, derived_seed(params.seed, "sft")
    )
    settings = SFTConfig(
        **trainer_settings(params, checkpoints, order, params.sft_learning_rate, params.sft_epochs),
        max_length=params.max_length,
        packing=False,
    )
    examples = datasets.Dataset.from_list([{name: row[name] for name in ("input_ids", "labels")} for row in rows])
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    before = [weight.data for weight in trained]
    trainer = OrderedSFTTrainer(model=model, args=settings, train_dataset=examples, processing_class=tokenizer)
    for weight, data in zip(trained, before, strict=True):
        weight.data = data  # TRL 1.16 makes adapters on four bits bfloat16, in which small updates are rounded away
    trainer.order = order
    if params.lora_rank and not torch.cuda.is_available():  # TRL's 32,768 take more memory than base and adapters
        trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = TILE
    with tracking(params.trackers, params.log_dir) as track:
        return trainer, train(trainer, checkpoints, [row["source"] for row in rows], track)


if __name__ == "__main__":
    run_stage(main)
