"""update_policy: replay the regret cases, gated by uncertainty, held by anchors and a KL budget.

    python stages/update_policy.py --round 0 --after sft

    loss = 1/N sum_i w_i s_i DPO_i(beta_i) + chosen_nll_weight * NLL(chosen) + anchor_weight * NLL(anchors)

over an optimiser batch of N pairs and N anchors, with the NLLs in nats a token. beta_i grows with the
rank of pair i's uncertainty in the buffer. The reference is the SFT policy, by the log-probs that the
buffer carries. Past the KL budget the update stops and keeps its last snapshot inside it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from tqdm import tqdm

from anchora.files import UserError, new_file, read_jsonl, write_json
from anchora.logps import collate, response_logps, sequence_logps, token_budget_batches
from anchora.losses import beta_scales, case_weights, dpo_losses, kl_estimates, pair_betas
from anchora.models import add_lora, autocast, device, folder, load, load_tokenizer, save_policy
from anchora.params import read_params
from anchora.regret import importance_weights, ranks
from anchora.stage import log_params, run_stage, say
from anchora.trainer import training_dtype
from parameters.update_policy import UpdatePolicyParams

WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Pairs:
    """The regret cases of the buffer as tensors, all (cases,)."""

    rows: list[dict]
    beta: torch.Tensor
    weight: torch.Tensor  # w_i * s_i * the importance correction
    chance: torch.Tensor  # of being drawn, adds up to 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--after", required=True, help="sft, or round<k> whose policy is updated")
    args = parser.parse_args()
    params = read_params(UpdatePolicyParams)
    log_params(params, params.log_dir)

    buffer = read_jsonl(f"data/regret_buffer/round{args.round}.jsonl")
    pairs = weigh([row for row in buffer if row["kind"] == "case"], params)
    anchors = [row for row in buffer if row["kind"] == "anchor" and not row["held_out"]]
    drift = [row for row in buffer if row["kind"] == "anchor" and row["held_out"]]
    if params.anchor_weight > 0 and not anchors:
        raise UserError("the buffer holds no anchors: every prompt is a case; lower anchor_weight to 0 or raise regret_threshold")

    if not drift:
        raise UserError("the buffer holds no anchor to measure the KL on; raise regret_threshold or anchor_count, or add regret prompts")

    source = folder(Path(params.output_dir) / args.after)
    tokenizer, model = load_tokenizer(source), load_trainable(source, params)
    with autocast(params.use_bf16):
        if args.after == "sft":
            check_reference(model, tokenizer, buffer, params)
        curve, kept, stopped_at = replay(model, tokenizer, pairs, anchors, drift, params, params.seed + args.round)

    save_policy(Path(params.output_dir) / f"round{args.round}", model, tokenizer)
    with new_file(f"metrics/curves/round{args.round}.csv") as partial:
        curve.to_csv(partial, index=False, float_format="%.6g")
    metrics = {**kept_figures(curve, kept), "beta_mean": float(pairs.beta.mean()), "stopped_at": stopped_at, "pairs": len(pairs.rows)}
    metrics = {name: round(value, 6) if isinstance(value, float) else value for name, value in metrics.items()}
    write_json(f"metrics/update/round{args.round}.json", {"update": {f"round{args.round}": metrics}})
    say(f"round {args.round}: {metrics['steps']} updates kept, forward KL {metrics['kl_forward']:.3f} nats a sequence")


def kept_figures(curve: pd.DataFrame, kept: int) -> dict:
    """What the saved policy had: figures at the step that was kept, the loss as the mean of the ten steps before it.

    Row 0 of the curve is the policy that came in; a round that keeps it has no loss.
    """
    last = curve[curve["step"] == kept].iloc[0]
    loss = curve.loc[(curve["step"] > kept - 10) & (curve["step"] <= kept), "loss"].mean()
    figures = {"loss": loss, **{name: last[name] for name in ("kl_forward", "chosen_logp_change", "rejected_logp_change")}}
    return {"steps": kept, **{name: None if pd.isna(value) else float(value) for name, value in figures.items()}}


def load_trainable(source: dict[str, str], params: UpdatePolicyParams):
    """The policy to train, with fresh LoRA adapters if asked for; dropout stays off, as in the reference."""
    from transformers import AutoModelForCausalLM

    dtype = training_dtype(params.use_bf16, params.lora_rank)
    model = load(AutoModelForCausalLM, source, dtype=dtype, use_safetensors=True)
    if params.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return add_lora(model, params.lora_rank, params.lora_alpha, params.seed)


def weigh(rows: list[dict], params: UpdatePolicyParams) -> Pairs:
    """Beta, weight and chance of every case of the buffer."""
    rank = torch.tensor(ranks([row["uncertainty"] for row in rows]), dtype=torch.float32)
    beta = pair_betas(rank, params.beta_mode, params.kl_beta_min, params.kl_beta_max, params.seed)
    scale = beta_scales(beta, params.beta_scaling, (params.kl_beta_min + params.kl_beta_max) / 2)
    chance = torch.tensor([row["priority"] for row in rows], dtype=torch.float64)
    chance = chance / chance.sum() if params.replay == "regret" else torch.full_like(chance, 1 / len(rows))
    correction = torch.tensor(importance_weights(chance.numpy(), params.importance_correction), dtype=torch.float32)
    return Pairs(rows, beta, case_weights(rank, params.case_weight) * scale * correction, chance)


def check_reference(model, tokenizer, buffer: list[dict], params: UpdatePolicyParams) -> None:
    """In round 0 the policy is the reference: a few log-probs must be those of the buffer."""
    sample = [(row, row[name]) for row in buffer[:8] for name in ("chosen", "rejected", "response") if name in row]
    found = response_logps(
        model.to(device()), [(row["prompt_ids"], response["ids"]) for row, response in sample],
        tokenizer.pad_token_id, params.scoring_batch_tokens,
    )  # fmt: skip
    worst = max(abs(sum(ours) - sum(response["reference_logps"])) for ours, (_, response) in zip(found, sample, strict=True))
    if worst > (0.1 if params.use_bf16 else 1e-3):
        raise UserError(
            f"the policy's log-probs differ from the buffer's reference by {worst:.4f} nats in round 0; they come from "
            "different models or number formats: run `dvc repro` from build_regret_buffer on"
        )


def replay(model, tokenizer, pairs: Pairs, anchors, drift, params, seed: int) -> tuple[pd.DataFrame, int, int | None]:
    """Train ``model`` in place: the figures of every step, the step that was kept, and the one at which the budget ended it."""
    accelerator = Accelerator()
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=params.update_learning_rate, weight_decay=0.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    model.train(params.gradient_checkpointing)  # else no dropout of the model's own: the policy is the reference at step 0
    snapshot, kept, stopped_at = copies(trainable), 0, None
    generator = torch.Generator().manual_seed(seed)
    size, steps = params.batch_size * params.grad_accum_steps, steps_in_round(len(pairs.rows), params)
    figures = [{"step": 0, "kl_forward": forward_kl(model, tokenizer, drift, params)}]
    for step in (bar := tqdm(range(1, steps + 1), desc="update", unit="step", mininterval=2, disable=None)):
        for group in optimizer.param_groups:
            group["lr"] = params.update_learning_rate * schedule(step, steps)
        drawn = draw(pairs.chance, size, generator)
        held = draw(torch.ones(len(anchors)), size, generator) if params.anchor_weight > 0 else []
        figures.append({"step": step, **update(accelerator, model, optimizer, tokenizer, pairs, drawn, [anchors[i] for i in held], params)})
        if step % params.kl_check_steps and step != steps:
            continue
        kl = figures[-1]["kl_forward"] = forward_kl(model, tokenizer, drift, params)
        bar.set_postfix(loss=f"{figures[-1]['loss']:.3f}", kl=f"{kl:.3f}")
        if not kl <= params.kl_budget:
            stopped_at = step
            break
        snapshot, kept = copies(trainable), step
    with torch.no_grad():
        for weight, value in zip(trainable, snapshot, strict=True):
            weight.copy_(value)
    return pd.DataFrame(figures), kept, stopped_at


def copies(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    return [weight.detach().cpu().clone() for weight in weights]


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


def update(accelerator, model, optimizer, tokenizer, pairs: Pairs, drawn, anchors, params) -> dict[str, float]:
    """One optimiser step, split into parts that fit the device; any split gives the same gradient."""
    rows = [pairs.rows[index] for index in drawn]
    chosen_tokens = sum(len(row["chosen"]["ids"]) for row in rows)
    anchor_tokens = sum(len(row["response"]["ids"]) for row in anchors)
    sums = ("dpo", "margin", "chosen_logp_change", "rejected_logp_change")
    totals = dict.fromkeys(("loss", "chosen_nll", "anchor_nll", *sums), 0.0)
    for start in range(0, len(drawn), params.batch_size):
        terms = pair_terms(model, tokenizer, pairs, drawn[start : start + params.batch_size])
        loss = terms["dpo"] / len(drawn) + params.chosen_nll_weight * terms["chosen_nll"] / chosen_tokens
        accelerator.backward(loss)
        totals["chosen_nll"] += terms["chosen_nll"].item() / chosen_tokens
        for name in sums:
            totals[name] += terms[name].item() / len(drawn)
    for start in range(0, len(anchors), params.batch_size):
        part = anchors[start : start + params.batch_size]
        batch = collate([(row["prompt_ids"], row["response"]["ids"]) for row in part], tokenizer.pad_token_id, model.device)
        nll = -sequence_logps(model, batch).sum() / anchor_tokens
        accelerator.backward(params.anchor_weight * nll)
        totals["anchor_nll"] += nll.item()
    norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
    totals["loss"] = totals["dpo"] + params.chosen_nll_weight * totals["chosen_nll"] + params.anchor_weight * totals["anchor_nll"]
    if not torch.isfinite(norm):
        raise UserError(f"the gradient is not finite (loss {totals['loss']}); lower update_learning_rate. No model was written")
    optimizer.step()
    optimizer.zero_grad()
    return {**totals, "gradient_norm": norm.item(), "beta": pairs.beta[drawn].mean().item()}


def pair_terms(model, tokenizer, pairs: Pairs, indices: list[int]) -> dict[str, torch.Tensor]:
    """Sums over some pairs of the weighted DPO loss, the chosen NLL, the margin and the log-prob changes."""
    rows = [pairs.rows[index] for index in indices]
    both = [(row["prompt_ids"], row[side]["ids"]) for side in ("chosen", "rejected") for row in rows]
    batch = collate(both, tokenizer.pad_token_id, model.device)
    chosen, rejected = sequence_logps(model, batch).sum(-1).chunk(2)
    reference = {
        side: torch.tensor([sum(row[side]["reference_logps"]) for row in rows], device=chosen.device) for side in ("chosen", "rejected")
    }
    beta, weight = (values[indices].to(chosen.device) for values in (pairs.beta, pairs.weight))
    losses, margins = dpo_losses(chosen, rejected, reference["chosen"], reference["rejected"], beta)
    return {
        "dpo": (weight * losses).sum(),
        "chosen_nll": -chosen.sum(),
        "margin": margins.detach().sum(),
        "chosen_logp_change": (chosen - reference["chosen"]).detach().sum(),
        "rejected_logp_change": (rejected - reference["rejected"]).detach().sum(),
    }


@torch.no_grad()
def forward_kl(model, tokenizer, anchors: list[dict], params) -> float:
    """KL(SFT policy || policy) in nats a sequence, by k3 at each token of the SFT policy's own samples."""
    lengths = [len(row["prompt_ids"]) + len(row["response"]["ids"]) for row in anchors]
    total = 0.0
    for indices in token_budget_batches(lengths, params.scoring_batch_tokens):
        part = [anchors[index] for index in indices]
        batch = collate([(row["prompt_ids"], row["response"]["ids"]) for row in part], tokenizer.pad_token_id, model.device)
        ours = sequence_logps(model, batch)[batch.response_mask]
        reference = torch.tensor([value for row in part for value in row["response"]["reference_logps"]], device=ours.device)
        total += kl_estimates(reference - ours)["k3"].sum().item()
    return total / len(anchors)


if __name__ == "__main__":
    run_stage(main)
