"""update_policy: replay the regret cases, gated by uncertainty, held by anchors and a KL budget.

    python stages/update_policy.py --round 0 --after sft

What one step does is in anchora/update/step.py. The reference is the SFT policy, by the log-probs that the
buffer carries. Past the KL budget the update stops and keeps its last snapshot inside it. Writes the
policy to ${output_dir}/round<k>, the figures of every step to metrics/curves/round<k>.csv and those of
the policy that was kept to metrics/update/round<k>.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from tqdm import tqdm

from anchora.model.layers import compile_layers
from anchora.model.loading import load_causal_lm, save_policy
from anchora.model.logps import response_logps
from anchora.model.lora import add_lora, merge_lora
from anchora.model.machine import autocast, device, training_dtype, use_machine
from anchora.model.pins import from_folder
from anchora.model.processes import any_process, interruptible_steps
from anchora.regret.buffer import buffer_line, response_names
from anchora.run.errors import UserError
from anchora.run.files import new_file, read_jsonl, write_json
from anchora.run.logs import log_figures, log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.training.checkpoints import Checkpoints
from anchora.training.sharding import full_from_shard, full_tensor, gather_full_model, load_optimizer, local_shard, optimizer_tensors, shard
from anchora.update.params import UpdatePolicyParams
from anchora.update.step import Layout, Pairs, SequenceLogps, chances_known, forward_kl, layout_for, update, weigh

WARMUP_SHARE = 0.1
LEAST_KEPT = 0.7  # share of the KL that merging LoRA may leave before a run says so


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--after", required=True, help="sft, or round<k> whose policy is updated")
    args = parser.parse_args()
    params = read_params(UpdatePolicyParams)
    log_params(params)
    use_machine(params)

    path = Path(f"data/regret_buffer/round{args.round}.jsonl")
    buffer = [row for row in read_jsonl(path) if row["kind"] in ("case", "anchor")]
    pairs = weigh([row for row in buffer if row["kind"] == "case"], params)
    if params.case_weight == "calibrated" and not chances_known(pairs.rows):
        say(f"round {args.round}: too few calibration prompts have known answers; cases are weighed by the rank of their certainty")
    anchors = [row for row in buffer if row["kind"] == "anchor" and not row["held_out"]]
    measuring = [row for row in buffer if row["kind"] == "anchor" and row["held_out"]]
    if params.anchor_weight > 0 and not anchors:
        raise UserError("the buffer holds no anchors: every prompt is a case; lower anchor_weight to 0 or raise regret_threshold")
    if not measuring:
        raise UserError("the buffer holds no anchor to measure the KL on; raise regret_threshold or anchor_count, or add regret prompts")

    source = Path(params.output_dir) / args.after
    model, tokenizer = load_trainable(from_folder(source), params)
    checkpoints = Checkpoints()
    with autocast(params.use_bf16):
        layout = layout_for(model.to(device()), tokenizer.pad_token_id, buffer, params)
        if args.after == "sft":
            check_reference(model, buffer, layout, params)
        curve, kept, stopped_at = replay(model, pairs, anchors, measuring, layout, params, params.seed + args.round, checkpoints)

    model = merge_lora(gather_full_model(model, lambda: load_trainable(from_folder(source), params)[0]))
    with autocast(params.use_bf16):
        torch.compiler.set_stance("force_eager")  # merged layers are others: not worth compiling for one measurement
        kl_saved = forward_kl(SequenceLogps(model), measuring, layout) if params.lora_rank else None
    save_policy(Path(params.output_dir) / f"round{args.round}", model, tokenizer)
    log_figures(curve.pop("tokens_per_second"), params.log_dir)
    gate = {"uncertainty": [row["uncertainty"] for row in pairs.rows], "beta": pairs.beta.tolist(), "weight": pairs.weight.tolist()}
    with new_file(f"metrics/gate/round{args.round}.csv") as partial:
        pd.DataFrame(gate).sort_values(["uncertainty", "beta"]).to_csv(partial, index=False, float_format="%.6g")
    with new_file(f"metrics/curves/round{args.round}.csv") as partial:
        drawable(curve).to_csv(partial, index=False, float_format="%.6g")
    metrics = {**kept_figures(curve, kept), "beta_mean": float(pairs.beta.mean()), "stopped_at": stopped_at, "pairs": len(pairs.rows)}
    metrics["kl_saved"] = metrics["kl_forward"] if kl_saved is None else kl_saved
    metrics |= {"weight_min": float(pairs.weight.min()), "weight_max": float(pairs.weight.max())}
    metrics = {name: round(value, 6) if isinstance(value, float) else value for name, value in metrics.items()}
    write_json(f"metrics/update/round{args.round}.json", {"update": {f"round{args.round}": metrics}})
    say(f"round {args.round}: {metrics['steps']} updates kept, forward KL {metrics['kl_forward']:.3f} nats a sequence")
    if metrics["kl_saved"] < LEAST_KEPT * metrics["kl_forward"]:
        say(
            f"round {args.round}: merged into its weights the update keeps {metrics['kl_saved']:.3f} of these: it is too small for "
            "their number format; raise update_learning_rate or rl_iterations, or set use_bf16: false"
        )


def drawable(curve: pd.DataFrame) -> pd.DataFrame:
    """The updates of a curve without blanks, which DVC draws at 0: what a step did not measure is as last measured.

    So it is with the KL between two checks, and with the margin of a quartile that no pair was drawn of; before the first
    such pair, the margin is as with it.
    """
    return curve.ffill()[curve["step"] > 0].bfill()


def kept_figures(curve: pd.DataFrame, kept: int) -> dict:
    """What the saved policy had: figures at the step that was kept, the loss as the mean of the ten steps before it.

    Row 0 of the curve is the policy that came in; a round that keeps it has no loss.
    """
    last = curve[curve["step"] == kept].iloc[0]
    loss = curve.loc[(curve["step"] > kept - 10) & (curve["step"] <= kept), "loss"].mean()
    figures = {"loss": loss, **{name: last[name] for name in ("kl_forward", "chosen_logp_change", "rejected_logp_change")}}
    return {"steps": kept, **{name: None if pd.isna(value) else float(value) for name, value in figures.items()}}


def load_trainable(pretrained: dict[str, str], params: UpdatePolicyParams) -> tuple:
    """The policy to train, with fresh LoRA adapters if asked for, and its tokenizer; dropout stays off, as in the reference."""
    model, tokenizer = load_causal_lm(pretrained, params, training_dtype(params.use_bf16, params.lora_rank))
    if params.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return add_lora(model, params.lora_rank, params.lora_alpha, params.seed), tokenizer


def check_reference(model, buffer: list[dict], layout: Layout, params: UpdatePolicyParams) -> None:
    """In round 0 the policy is the reference: a few log-probs must be those of the buffer."""
    rows = buffer[:4] + buffer[-4:]  # anchors stand first, cases last
    found = response_logps(model, [buffer_line(row) for row in rows], layout.pad_token_id, layout.budget, layout.shared)
    kept = [[row[name]["reference_logps"] for name in response_names(row)] for row in rows]
    ours, theirs = (np.concatenate([logps for row in rows for logps in row]) for rows in (found, kept))
    mean = float(np.abs(ours - theirs).mean())
    if mean > (0.1 if params.use_bf16 else 1e-4):  # bfloat16's rounding is 0.02
        raise UserError(
            f"the policy's log-probs differ from the buffer's reference by {mean:.4f} nats a token in round 0; they come from "
            "different models or number formats: run `dvc repro` from build_regret_buffer on"
        )


def replay(
    policy, pairs: Pairs, anchors, measuring, layout: Layout, params, seed: int, checkpoints: Checkpoints
) -> tuple[pd.DataFrame, int, int | None]:
    """Train ``policy`` in place: the figures of every step, the step that was kept, and the one at which the budget ended it.

    Goes on from the last checkpoint, whose weights, optimiser, sampler and figures make the rest of the
    run the same as if it had never stopped.
    """
    accelerator = Accelerator()
    if params.compile_layers:
        compile_layers(policy)
    policy.eval()  # no dropout of the model's own: the policy is the reference at step 0
    for module in policy.modules():
        module.training = getattr(module, "gradient_checkpointing", False)  # which works in training mode alone
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=params.update_learning_rate, weight_decay=0.0)
    model, optimizer = accelerator.prepare(SequenceLogps(policy), optimizer)
    trainable = [weight for weight in policy.parameters() if weight.requires_grad]  # FSDP has put its own in their place
    generator = torch.Generator().manual_seed(seed)
    size, steps = params.batch_size * params.grad_accum_steps, steps_in_round(len(pairs.rows), params)
    start, kept, stopped_at, snapshot = 0, 0, None, copies(trainable)
    if (found := checkpoints.load()) is not None:
        (start, kept, figures), snapshot = put_back(found, trainable, optimizer, generator)
        say(f"going on after step {start} of {steps}")
    else:
        figures = [{"step": 0, "kl_forward": forward_kl(model, measuring, layout)}]
    bar = tqdm(range(start + 1, steps + 1), initial=start, total=steps, desc="update", unit="step", mininterval=2, disable=None)

    def save(step: int) -> None:
        state = training_state(trainable, snapshot if kept < step else None, optimizer, generator)
        tensors = {name: tensor for name, tensor in state if accelerator.is_main_process}  # all give their parts, one keeps the whole
        if accelerator.is_main_process:
            checkpoints.save(step, tensors, {"step": step, "kept": kept, "figures": figures})

    with closing(interruptible_steps(bar, save)) as whole_step:
        for step in whole_step:
            for group in optimizer.param_groups:
                group["lr"] = params.update_learning_rate * schedule(step, steps)
            drawn = draw(pairs.chance, size, generator)
            held = draw(torch.ones(len(anchors)), size, generator) if params.anchor_weight > 0 else []
            anchored = [anchors[index] for index in held]
            figures.append({"step": step, **update(accelerator, model, optimizer, step, pairs, drawn, anchored, layout, params)})
            if step % params.kl_check_steps and step != steps:
                continue
            kl = figures[-1]["kl_forward"] = forward_kl(model, measuring, layout)
            bar.set_postfix(loss=f"{figures[-1]['loss']:.3f}", kl=f"{kl:.3f}")
            if any_process(not kl <= params.kl_budget):
                stopped_at = step
                break
            snapshot, kept = copies(trainable), step
            if checkpoints.due():
                save(step)
    with torch.no_grad():
        for weight, value in zip(trainable, snapshot, strict=True):
            local_shard(weight).copy_(value)
    return pd.DataFrame(figures), kept, stopped_at


def training_state(trainable, snapshot: list[torch.Tensor] | None, optimizer, generator) -> Iterator[tuple[str, torch.Tensor]]:
    """All that the rest of a round depends on, by name; ``snapshot`` where it is not the weights themselves."""
    for index, weight in enumerate(trainable):
        yield f"weight.{index}", full_tensor(weight)
    for index, part in enumerate(snapshot or []):
        yield f"snapshot.{index}", full_from_shard(part, trainable[index])
    yield from optimizer_tensors(optimizer)
    yield "sampler", generator.get_state()


def put_back(checkpoint: tuple[dict[str, torch.Tensor], dict], trainable, optimizer, generator) -> tuple[tuple, list[torch.Tensor]]:
    """Restore a checkpoint; its step, the step whose weights are kept, the figures up to there, and those weights."""
    tensors, state = checkpoint
    with torch.no_grad():
        for index, weight in enumerate(trainable):
            weight.copy_(shard(tensors[f"weight.{index}"], weight))
    load_optimizer(optimizer, tensors)
    generator.set_state(tensors["sampler"])
    kept = [tensors.get(f"snapshot.{index}", tensors[f"weight.{index}"]) for index in range(len(trainable))]
    snapshot = [local_shard(shard(tensor, weight)).cpu() for tensor, weight in zip(kept, trainable, strict=True)]
    return (state["step"], state["kept"], state["figures"]), snapshot


def copies(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    return [local_shard(weight.detach()).cpu().clone() for weight in weights]


def steps_in_round(cases: int, params) -> int:
    """``rl_iterations``, or fewer where so many would replay a case more than ``replays_per_case`` times on average."""
    size = params.batch_size * params.grad_accum_steps
    return max(1, min(params.rl_iterations, round(params.replays_per_case * cases / size)))


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then linear decay to a tenth."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    return min(step / warmup, 1.0 - 0.9 * max(0, step - warmup) / max(1, steps - warmup))


def draw(chance: torch.Tensor, size: int, generator: torch.Generator) -> list[int]:
    """Indices for one optimiser batch, each drawn with its chance whatever the others are."""
    return torch.multinomial(chance, size, replacement=True, generator=generator).tolist()


if __name__ == "__main__":
    run_stage(main)
