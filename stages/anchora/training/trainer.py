"""What SFT and reward training share: settings, the order of the examples, progress and checkpoints.

With n processes each update takes the same examples as with one: n divides grad_accum_steps, and the
order of the examples is drawn for whole updates, not for a process.
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

from anchora.model.checkpoints import Checkpoints
from anchora.model.processes import any_process, wait_for_all
from anchora.run.files import UserError
from anchora.run.stage import defer_signals, say
from anchora.training.params import TrainingParams

SECONDS_BETWEEN_LINES = 5.0
WARMUP_SHARE = 0.05  # of the updates; none where that is less than one, for a warm-up's first update has a learning rate of 0


def trainer_settings(
    params: TrainingParams, checkpoints: Checkpoints, order: LengthGroupedSampler, learning_rate: float, epochs: float
) -> dict:
    """Keyword arguments of transformers' TrainingArguments and their heirs in TRL, for ``epochs`` passes over ``order``."""
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
        "seed": order.seed,
        "data_seed": order.seed,
        "logging_nan_inf_filter": False,
        "logging_steps": 1,  # else a resumed run would report another mean loss
        "save_strategy": "no",  # CheckpointCallback saves
        "report_to": [],
        "ddp_find_unused_parameters": False,
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,  # collators put tensors on the device themselves
    }


class LengthGroupedSampler(torch.utils.data.Sampler):
    """A new order for every epoch: examples of like length together, and whole updates only.

    Examples are drawn into groups, a quarter of an epoch or 50 updates' worth each, and sorted within them. What is left over at
    the end of an epoch, less than one update, are the shortest of the last group, which is another one in every epoch.
    """

    def __init__(self, lengths: list[int], update_size: int, seed: int):
        self.lengths, self.update_size, self.seed, self.epoch = lengths, update_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.update_size * self.update_size or len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        yield from self.epoch_indices(self.epoch)

    def epoch_indices(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 10_007 + epoch)
        return get_length_grouped_indices(self.lengths, self.update_size, generator=generator)[: len(self)]

    def step_indices(self, step: int) -> list[int]:
        """The examples of update ``step``, counted from 1."""
        place = (step - 1) % self.updates_per_epoch()
        return self.epoch_indices(self.epoch_of_step(step))[place * self.update_size : (place + 1) * self.update_size]

    def epoch_of_step(self, step: int) -> int:
        return (step - 1) // self.updates_per_epoch()

    def updates_per_epoch(self) -> int:
        return max(1, len(self) // self.update_size)


class CheckpointCallback(TrainerCallback):
    """Saves a checkpoint when one is due or the stage shall stop, marks it as whole, and tells how far training is.

    ``rows`` names the examples of an update, for the error that stops a training gone wrong.
    """

    def __init__(self, checkpoints: Checkpoints, stop_asked: Callable[[], bool], rows: Callable[[int], list[str]]):
        self.checkpoints, self.stop_asked, self.rows, self.said_at = checkpoints, stop_asked, rows, time.monotonic()
        self.stops = False

    def on_step_end(self, args, state, control, **kwargs):
        self.stops = any_process(self.stop_asked())
        control.should_save = state.global_step < state.max_steps and (self.checkpoints.due() or self.stops)

    def on_save(self, args, state, control, **kwargs):
        wait_for_all()  # each has written its part
        if state.is_world_process_zero:
            self.checkpoints.mark_complete(state.global_step)
        if self.stops:
            raise KeyboardInterrupt

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "grad_norm"):
            if name in (logs or {}) and not math.isfinite(float(logs[name])):
                raise not_finite_error(name, state, self.rows(state.global_step))
        if args.disable_tqdm and "loss" in (logs or {}) and time.monotonic() - self.said_at >= SECONDS_BETWEEN_LINES:
            say(f"step {state.global_step} of {state.max_steps}, loss {float(logs['loss']):.4f}")
            self.said_at = time.monotonic()


def not_finite_error(name: str, state: TrainerState, rows: list[str]) -> UserError:
    """The error for a figure of the newest update, of the examples ``rows``, that is not finite."""
    return UserError(
        f"the {name} of step {state.global_step} (epoch {state.epoch:.2f}) is not finite; lower the learning rate or look "
        f"at its rows: {', '.join(rows)}. No model was written; the last checkpoint is kept"
    )


def final_gradient_norm(trainer) -> float:
    """Norm of the gradient at the weights that the last update left, on the first of its batches.

    What is compiled is left aside, for one pass.
    """
    indices = trainer.order.step_indices(trainer.state.global_step)[: trainer.args.per_device_train_batch_size]
    inputs = trainer.data_collator([trainer.train_dataset[index] for index in indices])
    inputs = {name: tensor.to(trainer.args.device) for name, tensor in inputs.items()}
    with trainer.compute_loss_context_manager(), torch.compiler.set_stance("force_eager"):
        trainer.accelerator.backward(trainer.compute_loss(trainer.model_wrapped, inputs))
    norm = trainer.accelerator.clip_grad_norm_(trainer.model_wrapped.parameters(), 1.0)
    trainer.model_wrapped.zero_grad()
    return float(norm)


def train(trainer, checkpoints: Checkpoints, locations: list[str]) -> float:
    """Train from the newest whole checkpoint on, or from the start; the mean loss over all updates.

    ``trainer.order`` is a ``LengthGroupedSampler``; ``locations`` say where each example comes from. Raises UserError for a loss or a
    gradient that is not finite, also where the last update of all has broken the model.
    """
    trainer.remove_callback(PrinterCallback)
    found = checkpoints.newest()
    if found is not None:
        say(f"going on from step {checkpoints.step(found)}")
        trainer.order.set_epoch(trainer.order.epoch_of_step(checkpoints.step(found) + 1))  # several processes' loaders do not pass it on

    def rows(step: int) -> list[str]:
        return [locations[index] for index in trainer.order.step_indices(step)]

    with defer_signals() as stop_asked:
        trainer.add_callback(CheckpointCallback(checkpoints, stop_asked, rows))
        trainer.train(resume_from_checkpoint=None if found is None else str(found))
    if not math.isfinite(final_gradient_norm(trainer)):
        raise not_finite_error("grad_norm behind the last update", trainer.state, rows(trainer.state.global_step))
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return sum(losses) / len(losses)
