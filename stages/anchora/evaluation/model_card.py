"""The model card that goes to the hub with the exported policy."""

from __future__ import annotations

from anchora.evaluation.abstention import guarantee
from anchora.evaluation.tables import HEADER, comparison_rows, headline, notes

NO_MARKUP = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[]<>|#"})  # a judge's words are text, not Markdown


def model_card(evaluation: dict, base_model: dict, exported: dict, splits: dict[str, int], licence: str | None) -> str:
    """Write the card in Markdown, with the hub's header: what the model is, its measured results and data, how to use its uncertainty.

    ``base_model`` is the pin of the model that was fine-tuned: ``path`` of a folder, or ``repo`` and ``revision`` on the hub.
    ``exported``: what export says of the folder, the content of metrics/export.json. ``splits``: how many rows each split has, of
    metrics/data.json. ``licence``: what the base's own card names; None where there is none.
    """
    rows = [HEADER, ("---",) * len(HEADER), *(row.cells for row in comparison_rows(evaluation))]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    remarks = "".join(f"{sentence.translate(NO_MARKUP)}\n\n" for sentence in notes(evaluation))
    selective = evaluation["selective"]
    threshold = "none" if selective["threshold"] is None else f"{selective['threshold']:.2f}"
    promise = guarantee(*(selective[name] for name in ("threshold", "target_risk", "risk_confidence", "calibration_answers")))
    name, under = pinned_name(base_model), base_model.get("base", base_model)
    base = f"base_model: {under['repo']}\n" if "repo" in under else ""
    weights = weights_text(exported, pinned_name(under))
    but = " but those of lm-evaluation-harness's tasks" if "harness" in evaluation else ""
    library = "peft" if exported["format"] == "adapter" else "transformers"
    return f"""---
{base}library_name: {library}
tags: [dpo, uncertainty, anchora]
---

# Fine-tuned with UGRR (uncertainty-gated RL with regret replay)

Started from `{name}`, fine-tuned on instructions (SFT), then by preference updates on the prompts where the SFT model
was unsure or wrong, held to it by a KL term that grows with uncertainty. {headline(evaluation["gsm8k"])}{weights}

{table}

{remarks}`uncertainty.json` holds the scales of its uncertainty and a threshold ({threshold}); above it, do not rely on an answer.
{promise} All figures{but} are from prompts that no training has seen. They say nothing about other tasks or languages.

## Data

{data_text(splits)}

## Licence

{licence_text(licence, pinned_name(under))}
"""


def data_text(splits: dict[str, int]) -> str:
    """Say how many rows each part of the training and the measuring had; none is in two of them."""
    return (
        f"Fine-tuned on {splits['sft']:,} examples. {splits['preferences']:,} pairs trained the verifiers, {splits['judge']:,} others the "
        f"judge. The updates drew on {splits['prompts']:,} prompts. {splits['calibration']:,} problems set the scale of uncertainty and "
        f"the threshold, and {splits['evaluation']:,} prompts were kept for the figures."
    )


def licence_text(licence: str | None, base: str) -> str:
    """Say what is known of licences: what the base's card names. Of the data's nothing is."""
    known = f"The card of `{base}` names `{licence}`" if licence else f"No licence was found in the files at hand of `{base}`"
    return f"{known}. That of the training data is not known to the pipeline: state both before this model is passed on."


def pinned_name(pin: dict) -> str:
    """Return what the card calls the model of a pin."""
    return pin.get("path") or f"{pin['repo']}@{pin['revision']}"


def weights_text(exported: dict, base: str) -> str:
    """Say what the folder holds where adapters were trained over ``base``, and what merging them cost; nothing of whole models."""
    quantised = "four bits a weight (bitsandbytes NF4 with double quantisation)"
    beside = f", held in {quantised}: over the base as it is stored it is another policy" if exported.get("load_in_4bit") else ""
    if exported["format"] == "adapter":
        return f"\n\nThe folder holds a LoRA adapter alone. It belongs on `{base}`{beside}."
    if "merging" not in exported:
        return ""
    cost, origin = exported["merging"], f", which was held in {quantised} and is dequantised here" if beside else ""
    also = " The adapter alone is in the folder `adapter`." if exported["format"] == "both" else ""
    return (
        f"\n\nA LoRA adapter was trained and merged into `{base}`{origin}. Merging moved log-probs by {cost['logp_difference']:.4f} nats a "
        f"token, a KL of {cost['kl_sequence']:.4f} nats a sequence; the figures are those of the merged model.{also}"
    )
