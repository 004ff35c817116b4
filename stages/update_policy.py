"""update_policy: replay the regret cases, gated by uncertainty, held by anchors and a KL budget.

    python stages/update_policy.py --round 0 --after sft

What one step does is in anchora/update/step.py, beta and weight of every case in anchora/update/losses.py. The
reference is the SFT policy, by the log-probs that the buffer carries. Past the KL budget the update stops, and the
last snapshot inside it is kept. Writes the policy to ${output_dir}/round<k> (with lora_rank above 0 the adapter alone,
the one that SFT began), the figures of every step to metrics/curves/round<k>.csv, beta and weight against uncertainty
to metrics/gate/round<k>.csv, and the figures of the policy that was kept to metrics/update/round<k>.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from tqdm import tqdm

from anchora.kl.forward import forward_kl
from anchora.model.adapters import named_base, policy_from_folder, read_adapter_config
from anchora.model.layers import compile_layers
from anchora.model.loading import load_causal_lm, save_policy
from anchora.model.logps import response_logps
from anchora.model.lora import freeze_outside_decoder, save_adapter
from anchora.model.machine import autocast, device, training_dtype, use_machine
from anchora.model.pins import Pretrained
from anchora.model.processes import any_process, interruptible_steps
from anchora.model.seeds import derived_seed
from anchora.regret.batches import Layout, layout_for
from anchora.regret.buffer import Anchor, Buffer, Case, buffer_line, read_buffer, responses_of
from anchora.run.errors import UserError
from anchora.run.files import new_file, write_json
from anchora.run.logs import log_figures, log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.training.checkpoints import Checkpoints
from anchora.training.sharding import full_tensor, gather_full_model
from anchora.training.trackers import Track, tracking, untracked
from anchora.update.pairs import Pairs, has_chosen_right, weigh
from anchora.update.params import UpdatePolicyParams
from anchora.update.state import RoundState
from anchora.update.step import OptimizerBatch, ResponseLogps, update

WARMUP_SHARE = 0.1
LESS_LIKELY = -0.05  # nats; what is nearer to 0 is not worth a word


@dataclass(frozen=True)
class ReplayData:
    """What a round is trained on and measured on."""

    pairs: Pairs
    anchors: list[Anchor]  # trained on
    held_out_anchors: list[Anchor]  # the forward KL is measured on them
    layout: Layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--after", required=True, help="sft, or round<k> whose policy is updated")
    args = parser.parse_args()
    params = read_params(UpdatePolicyParams)
    log_params(params)
    use_machine(params)

    buffer = read_buffer(f"data/regret_buffer/round{args.round}.jsonl")
    pairs = weigh(buffer.cases, params)
    if params.case_weight == "calibrated" and not has_chosen_right(buffer.cases):
        say(
            f"round {args.round}: too few calibration prompts with known answers became cases (rehearsed in "
            f"metrics/regret/round{args.round}.json, 20 are needed); cases are weighed by the rank of their certainty"
        )
    anchors, held_out_anchors = split_anchors(buffer)
    if params.anchor_weight > 0 and not anchors:
        say(f"round {args.round}: the prompts of all trained anchors have become cases; nothing is rehearsed in this round")
    pretrained = policy_from_folder(Path(params.output_dir) / args.after, params.output_dir)
    policy_path = Path(params.output_dir) / f"round{args.round}"
    model, tokenizer = load_trainable(pretrained, params)
    checkpoints = Checkpoints()
    with autocast(params.use_bf16):
        rows: list[Case | Anchor] = [*buffer.anchors, *buffer.cases]
        layout = layout_for(model.to(device()), tokenizer.pad_token_id, rows, params.update_batch_tokens)
        if args.after == "sft":
            check_reference(model, rows, layout, params)
        data = ReplayData(pairs, anchors, held_out_anchors, layout)
        with tracking(params.trackers, params.log_dir) as track:
            seed = derived_seed(params.seed, "update", args.round)
            curve, kept_step, stopped_at = replay(model, data, params, seed, checkpoints, track)

    if pretrained.base is not None:
        save_adapter(policy_path, model, tokenizer, named_base(read_adapter_config(pretrained.source)), full_tensor)
    else:
        save_policy(policy_path, gather_full_model(model, lambda: load_trainable(pretrained, params)[0]), tokenizer)
    log_figures(curve.pop("tokens_per_second"), params.log_dir)
    write_curves(args.round, curve, pairs)
    metrics = round_figures(curve, kept_step, stopped_at, pairs)
    metrics["anchors"] = len(anchors)
    write_json(f"metrics/update/round{args.round}.json", {"update": {f"round{args.round}": metrics}})
    say(f"round {args.round}: {metrics['steps']} updates kept, forward KL {metrics['kl_forward']:.3f} nats a sequence")
    if advice := advice_on(curve, kept_step, params):
        say(f"round {args.round}: {advice}")


def split_anchors(buffer: Buffer) -> tuple[list[Anchor], list[Anchor]]:
    """Return the anchors to train on, and the held-out ones, of which build_regret_buffer leaves some; raises UserError without any.

    An anchor whose prompt has become a case rests for the round: it may hold the very response that the case rejects, and would
    pull up what DPO pushes down.
    """
    cases = {case["id"] for case in buffer.cases}
    trained = [anchor for anchor in buffer.anchors if not anchor["held_out"] and anchor["id"] not in cases]
    held_out = [anchor for anchor in buffer.anchors if anchor["held_out"]]
    if not held_out:
        raise UserError("the buffer holds no anchor to measure the KL on; run `dvc repro` from build_regret_buffer on")
    return trained, held_out


def load_trainable(pretrained: Pretrained, params: UpdatePolicyParams) -> tuple:
    """Load the policy to train, its adapter alone if it is one, and its tokenizer; dropout stays off, as in the reference."""
    model, tokenizer = load_causal_lm(pretrained, params, training_dtype(params.use_bf16, params.lora_rank), trainable=True)
    if params.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return (freeze_outside_decoder(model) if pretrained.base is None else model), tokenizer


def check_reference(model, rows: Sequence[Case | Anchor], layout: Layout, params: UpdatePolicyParams) -> None:
    """Raise UserError where a few log-probs of the policy are not those of the buffer: in round 0 the policy is the reference.

    ``rows`` stand as in the buffer, anchors first and cases last, so that both are looked at.
    """
    checked = [*rows[:4], *rows[-4:]]
    lines = [buffer_line(row) for row in checked]
    computed = response_logps(model, lines, layout.pad_token_id, layout.budget, layout.shared)
    policy_logps = np.concatenate([logps for row_logps in computed for logps in row_logps])
    reference_logps = np.concatenate([response["reference_logps"] for row in checked for response in responses_of(row)])
    mean = float(np.abs(policy_logps - reference_logps).mean())
    if mean > (0.1 if params.use_bf16 else 1e-4):  # bfloat16's rounding is 0.02
        raise UserError(
            f"the policy's log-probs differ from the buffer's reference by {mean:.4f} nats a token in round 0; they come from "
            "different models or number formats: run `dvc repro` from build_regret_buffer on"
        )


def replay(
    policy, data: ReplayData, params: UpdatePolicyParams, seed: int, checkpoints: Checkpoints, track: Track = untracked
) -> tuple[pd.DataFrame, int, int | None]:
    """Train ``policy`` in place; return the figures of every step, the step that was kept, and the one at which the budget ended it.

    Goes on from the last checkpoint, whose weights, optimiser, sampler and figures make the rest of the
    run the same as if it had never stopped. ``track`` gets the figures of each step as it is done.
    """
    accelerator, model, optimizer = prepare(policy, params)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]  # under FSDP others than before
    state = RoundState(weights, optimizer, torch.Generator().manual_seed(seed))
    steps, stopped_at = steps_in_round(len(data.pairs.cases), params), None
    if (start := state.load(checkpoints)) is not None:
        say(f"going on after step {start} of {steps}")
    else:
        start, state.figures = 0, [{"step": 0, "kl_forward": forward_kl(model, data.held_out_anchors, data.layout)}]
    bar = tqdm(range(start + 1, steps + 1), initial=start, total=steps, desc="update", unit="step", mininterval=2, disable=None)
    with closing(interruptible_steps(bar, lambda step: state.save(step, checkpoints))) as whole_step:
        for step in whole_step:
            for group in optimizer.param_groups:
                group["lr"] = params.update_learning_rate * schedule(step, steps)
            batch = draw_batch(data, params, state.sampler)
            state.figures.append({"step": step, **update(accelerator, model, optimizer, step, batch, params)})
            track(state.figures[-1], step)
            if step % params.kl_check_steps and step != steps:
                continue
            kl = state.figures[-1]["kl_forward"] = forward_kl(model, data.held_out_anchors, data.layout)
            track({"kl_forward": kl}, step)
            bar.set_postfix(loss=f"{state.figures[-1]['loss']:.3f}", kl=f"{kl:.3f}")
            if any_process(not kl <= params.kl_budget):
                stopped_at = step
                break
            state.keep(step)
            if checkpoints.due():
                state.save(step, checkpoints)
    state.return_to_kept()
    return pd.DataFrame(state.figures), state.kept_step, stopped_at


def prepare(policy, params: UpdatePolicyParams) -> tuple[Accelerator, torch.nn.Module, torch.optim.Optimizer]:
    """Make a policy ready to train: return an accelerator, the policy as log-probs of responses, and an optimiser over its weights."""
    accelerator = Accelerator()
    if params.compile_layers:
        compile_layers(policy)
    policy.eval()  # no dropout of the model's own: the policy is the reference at step 0
    for module in policy.modules():
        module.training = getattr(module, "gradient_checkpointing", False)  # which works in training mode alone
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=params.update_learning_rate, weight_decay=0.0)
    return accelerator, *accelerator.prepare(ResponseLogps(policy), optimizer)


def steps_in_round(cases: int, params: UpdatePolicyParams) -> int:
    """Return ``rl_iterations``, or fewer where so many would replay a case more than ``replays_per_case`` times on average."""
    size = params.batch_size * params.grad_accum_steps
    return max(1, min(params.rl_iterations, round(params.replays_per_case * cases / size)))


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then linear decay to a tenth."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    return min(step / warmup, 1.0 - 0.9 * max(0, step - warmup) / max(1, steps - warmup))


def draw_batch(data: ReplayData, params: UpdatePolicyParams, sampler: torch.Generator) -> OptimizerBatch:
    """Draw pairs by their probabilities, and as many anchors, each as likely as any other; none where they weigh nothing."""
    size = params.batch_size * params.grad_accum_steps
    pairs = data.pairs.take(draw(data.pairs.draw_probability, size, sampler))
    if params.gate == "batch":
        pairs = pairs.at_batch_means()
    indices = draw(torch.ones(len(data.anchors)), size, sampler) if params.anchor_weight > 0 and data.anchors else []
    return OptimizerBatch(pairs, [data.anchors[index] for index in indices], data.layout)


def draw(probabilities: torch.Tensor, size: int, generator: torch.Generator) -> list[int]:
    """Return ``size`` indices, each drawn by ``probabilities``, (n,), whatever the others are; these need not add up to 1."""
    return torch.multinomial(probabilities, size, replacement=True, generator=generator).tolist()


def round_figures(curve: pd.DataFrame, kept_step: int, stopped_at: int | None, pairs: Pairs) -> dict:
    """Return the metrics of a round: figures of the kept policy, and betas and weights of the cases."""
    metrics = kept_figures(curve, kept_step)
    metrics |= {"beta_mean": float(pairs.beta.mean()), "stopped_at": stopped_at, "pairs": len(pairs.cases)}
    metrics |= {"weight_min": float(pairs.weight.min()), "weight_max": float(pairs.weight.max())}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in metrics.items()}


def kept_figures(curve: pd.DataFrame, kept_step: int) -> dict:
    """Return the figures of the policy that was kept: those of its step, the loss as the mean of the ten steps up to it.

    Row 0 of the curve is the policy that came in; a round that keeps it has no loss.
    """
    last = curve[curve["step"] == kept_step].iloc[0]
    loss = ten_steps(curve, kept_step)["loss"].mean()
    figures = {"loss": loss, **{name: last[name] for name in ("kl_forward", "chosen_logp_change", "rejected_logp_change")}}
    return {"steps": kept_step, **{name: None if pd.isna(value) else float(value) for name, value in figures.items()}}


def ten_steps(curve: pd.DataFrame, kept_step: int) -> pd.DataFrame:
    """Return the rows of the ten steps up to the kept one; none where the policy that came in is kept."""
    return curve[(curve["step"] > max(0, kept_step - 10)) & (curve["step"] <= kept_step)]


def advice_on(curve: pd.DataFrame, kept_step: int, params: UpdatePolicyParams) -> str | None:
    """Return what to try where the chosen responses became less likely than under the SFT policy, over the ten steps up to the kept one."""
    kept = ten_steps(curve, kept_step)
    chosen, rejected = kept["chosen_logp_change"].mean(), kept["rejected_logp_change"].mean()
    if not chosen < LESS_LIKELY:  # nan where the policy that came in is kept
        return None
    return (
        f"over the last ten steps the log-probs of chosen responses are {-chosen:.2f} nats below the SFT policy's, those of rejected ones "
        f"{rejected:+.2f}: little is learnt from the chosen ones; try a larger chosen_nll_weight than {params.chosen_nll_weight:g}"
    )


def write_curves(number: int, curve: pd.DataFrame, pairs: Pairs) -> None:
    """Write what DVC draws of round ``number``: the figures of every step, and beta and weight of each case against its uncertainty.

    With ``gate: batch`` the update takes their means over each step's pairs instead.
    """
    uncertainty = [case["uncertainty"] for case in pairs.cases]
    gate = pd.DataFrame({"uncertainty": uncertainty, "beta": pairs.beta.tolist(), "weight": pairs.weight.tolist()})
    with new_file(f"metrics/gate/round{number}.csv") as partial:
        gate.sort_values(["uncertainty", "beta"]).to_csv(partial, index=False, float_format="%.6g")
    with new_file(f"metrics/curves/round{number}.csv") as partial:
        drawable(curve).to_csv(partial, index=False, float_format="%.6g")


def drawable(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the updates of a curve without blanks, which DVC draws at 0: what a step did not measure is as last measured.

    So it is with the KL between two checks, and with the margin of a quartile that no pair was drawn of; before the first
    such pair, the margin is as with it.
    """
    return curve.ffill()[curve["step"] > 0].bfill()


if __name__ == "__main__":
    run_stage(main)
