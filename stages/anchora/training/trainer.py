"""What SFT and reward training share: settings, the order of the examples, progress and checkpoints.

With n processes each update takes the same examples as with one: n divides grad_accum_steps, and the order of the examples
is drawn for whole updates, not for a process.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator

import torch
from transformers import PrinterCallback, TrainerCallback, TrainerState
from transformers.trainer_pt_utils import get_length_grouped_indices

from anchora.model.processes import any_process, wait_for_all
from anchora.model.seeds import derived_seed
from anchora.run.errors import UserError
from anchora.run.logs import say
from anchora.run.signals import defer_signals
from anchora.training.checkpoints import Checkpoints
from anchora.training.params import TrainingParams
from anchora.training.trackers import Track, untracked

SECONDS_BETWEEN_LINES = 5.0
EVALUATIONS = 10  # of a training that keeps its best weights
WARMUP_SHARE = 0.05  # of the updates; none where that is less than one, for a warm-up's first update has a learning rate of 0


def trainer_settings(
    params: TrainingParams, checkpoints: Checkpoints, order: LengthGroupedSampler, learning_rate: float, epochs: float
) -> dict:
    """Return keyword arguments of transformers' TrainingArguments, and of its heirs in TRL, for ``epochs`` passes over ``order``.

    Raises UserError where the launcher's processes do not divide ``grad_accum_steps``.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if params.grad_accum_steps % processes:
        raise UserError(f"grad_accum_steps: {params.grad_accum_steps} must be a multiple of the {processes} processes of the launcher")
    return {
        "output_dir": str(checkpoints.folder),
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": params.batch_size,
        "gradient_accumulation_steps": params.grad_accum_steps // processes,
        "gradient_checkpointing": params.gradient_checkpointing,
        "bf16": params.use_bf16,
        "use_cpu": not torch.cuda.is_available(),
        "lr_scheduler_type": "cosine",
        "warmup_steps": WARMUP_SHARE if WARMUP_SHARE * epochs * order.updates_per_epoch() >= 1 else 0,
        "seed": order.seed % 2**32,  # as numpy wants it
        "data_seed": order.seed % 2**32,
        "logging_nan_inf_filter": False,
        "logging_steps": 1,  # else a resumed run would report another mean loss
        "save_strategy": "no",  # CheckpointCallback saves
        "report_to": [],
        "ddp_find_unused_parameters": False,
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,  # collators put tensors on the device themselves
    }


def keep_best_settings(checkpoints: Checkpoints, batch_size: int) -> dict:
    """Return what more of TrainingArguments ends a training with the weights of least loss on ``eval_dataset``.

    It is measured after each tenth of the updates, and after the last one. transformers writes a checkpoint wherever that loss is
    a new least one, and loads the last of these at the end. What is measured before the first update is only drawn: the weights of
    then are never among those that are kept.
    """
    return {
        "eval_strategy": "steps",
        "eval_steps": 1 / EVALUATIONS,
        "eval_on_start": checkpoints.newest() is None,  # a resumed run has it in its checkpoint
        "per_device_eval_batch_size": batch_size,
        "save_strategy": "best",
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
    }


class LengthGroupedSampler(torch.utils.data.Sampler):
    """A new order of the examples for every epoch: those of like length together, and whole updates only.

    ``lengths`` are the examples' tokens, ``update_size`` the examples of an update. Examples are drawn into groups, a quarter
    of an epoch or 50 updates' worth each, and sorted within them. What is left over at the end of an epoch, less than one
    update, are the shortest of the last group, which is another one in every epoch.
    """

    def __init__(self, lengths: list[int], update_size: int, seed: int):
        self.lengths, self.update_size, self.seed, self.epoch = lengths, update_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose order iteration gives; transformers calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.update_size * self.update_size or len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        yield from self.epoch_indices(self.epoch)

    def epoch_indices(self, epoch: int) -> list[int]:
        """Return the examples of an epoch, counted from 0, in order."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "epoch", epoch))
        return get_length_grouped_indices(self.lengths, self.update_size, generator=generator)[: len(self)]

    def step_indices(self, step: int) -> list[int]:
        """Return the examples of update ``step``, counted from 1."""
        update = (step - 1) % self.updates_per_epoch()
        return self.epoch_indices(self.epoch_of_step(step))[update * self.update_size : (update + 1) * self.update_size]

    def epoch_of_step(self, step: int) -> int:
        """Return the epoch, counted from 0, of update ``step``, counted from 1."""
        return (step - 1) // self.updates_per_epoch()

    def updates_per_epoch(self) -> int:
        """Return the updates of an epoch, at least one."""
        return max(1, len(self) // self.update_size)


class CheckpointCallback(TrainerCallback):
    """Saves a checkpoint when one is due or the stage is to stop, marks it as complete, and tells how far training is.

    ``locations_of_step`` names the examples of an update, for the error that stops a training gone wrong; ``track`` gets its figures.
    """

    def __init__(
        self, checkpoints: Checkpoints, stop_requested: Callable[[], bool], locations_of_step: Callable[[int], list[str]], track: Track
    ):
        self.checkpoints, self.stop_requested, self.locations_of_step, self.track = checkpoints, stop_requested, locations_of_step, track
        self.last_line_at, self.stopping = time.monotonic(), False

    def on_train_begin(self, args, state, control, **kwargs):
        if state.best_global_step:  # the path in a checkpoint is that of its day: the disk may be mounted elsewhere now
            state.best_model_checkpoint = str(self.checkpoints.folder / f"checkpoint-{state.best_global_step}")

    def on_step_end(self, args, state, control, **kwargs):
        self.stopping = any_process(self.stop_requested())
        control.should_save = state.global_step < state.max_steps and (self.checkpoints.due() or self.stopping)

    def on_save(self, args, state, control, **kwargs):
        wait_for_all()  # each has written its part
        # Not behind the last update: from there, transformers would train once more where an epoch is not whole.
        if state.is_world_process_zero and state.global_step < state.max_steps:
            self.checkpoints.mark_complete(state.global_step, state.best_global_step)
        if self.stopping:
            raise KeyboardInterrupt

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "grad_norm"):
            if name in (logs or {}) and not math.isfinite(float(logs[name])):
                raise not_finite_error(name, state, self.locations_of_step(state.global_step))
        self.track(logs or {}, state.global_step)
        if args.disable_tqdm and "loss" in (logs or {}) and time.monotonic() - self.last_line_at >= SECONDS_BETWEEN_LINES:
            say(f"step {state.global_step} of {state.max_steps}, loss {float(logs['loss']):.4f}")
            self.last_line_at = time.monotonic()


def not_finite_error(name: str, state: TrainerState, locations: list[str]) -> UserError:
    """Make the error for a figure ``name`` of the newest update that is not finite; ``locations`` are its examples' rows."""
    return UserError(
        f"the {name} of step {state.global_step} (epoch {state.epoch:.2f}) is not finite; lower the learning rate or look "
        f"at its rows: {', '.join(locations)}. No model was written; the last checkpoint is kept"
    )


def final_gradient_norm(trainer) -> float:
    """Return the norm of the gradient at the weights that training leaves, on the first batch of the last update.

    Layers that are compiled run uncompiled: it is one pass alone.
    """
    indices = trainer.order.step_indices(trainer.state.global_step)[: trainer.args.per_device_train_batch_size]
    inputs = trainer.data_collator([trainer.train_dataset[index] for index in indices])
    inputs = {name: tensor.to(trainer.args.device) for name, tensor in inputs.items()}
    with trainer.compute_loss_context_manager(), torch.compiler.set_stance("force_eager"):
        trainer.accelerator.backward(trainer.compute_loss(trainer.model_wrapped, inputs))
    norm = trainer.accelerator.clip_grad_norm_(trainer.model_wrapped.parameters(), 1.0)
    trainer.model_wrapped.zero_grad()
    return float(norm)


def train(trainer, checkpoints: Checkpoints, locations: list[str], track: Track = untracked) -> float:
    """Train from the newest complete checkpoint on, or from the start; return the mean loss over all updates.

    ``trainer.order`` is a ``LengthGroupedSampler``; ``locations`` say where each example comes from (``data/x.json:7``);
    ``track`` gets the figures of each update.
    Raises UserError for a loss or a gradient that is not finite, also where the very last update has broken the model.
    """
    trainer.remove_callback(PrinterCallback)
    checkpoint = checkpoints.newest()
    if checkpoint is not None:
        step = checkpoints.step(checkpoint)
        say(f"going on from step {step}")
        trainer.order.set_epoch(trainer.order.epoch_of_step(step + 1))  # several processes' loaders do not pass it on

    def locations_of_step(step: int) -> list[str]:
        return [locations[index] for index in trainer.order.step_indices(step)]

    with defer_signals() as stop_requested:
        trainer.add_callback(CheckpointCallback(checkpoints, stop_requested, locations_of_step, track))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if not math.isfinite(final_gradient_norm(trainer)):
        last = trainer.state.global_step
        raise not_finite_error("grad_norm behind the last update", trainer.state, locations_of_step(last))
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return sum(losses) / len(losses)
