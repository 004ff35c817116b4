"""The model card that goes to the hub with the exported policy."""

from __future__ import annotations

from anchora.evaluation.tables import HEADER, comparison_rows, headline, notes
from anchora.uncertainty.abstention import guarantee

NO_MARKUP = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[]<>|#"})  # a judge's words are text, not Markdown


def model_card(evaluation: dict, base_model: dict[str, str]) -> str:
    """Write the card in Markdown, with the hub's header: what the model is, its measured results, how to use its uncertainty.

    ``base_model`` is the pin of the model that was fine-tuned: ``path`` of a folder, or ``repo`` and ``revision`` on the hub.
    """
    rows = [HEADER, ("---",) * len(HEADER), *(row.cells for row in comparison_rows(evaluation))]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    remarks = "".join(f"{sentence.translate(NO_MARKUP)}\n\n" for sentence in notes(evaluation))
    selective = evaluation["selective"]
    threshold = "none" if selective["threshold"] is None else f"{selective['threshold']:.2f}"
    promise = guarantee(*(selective[name] for name in ("threshold", "target_risk", "risk_confidence", "calibration_answers")))
    name = base_model.get("path") or f"{base_model['repo']}@{base_model['revision']}"
    base = f"base_model: {base_model['repo']}\n" if "repo" in base_model else ""
    return f"""---
{base}library_name: transformers
tags: [dpo, uncertainty, anchora]
---

# Fine-tuned with UGRR (uncertainty-gated RL with regret replay)

Started from `{name}`, fine-tuned on instructions (SFT), then by preference updates on the prompts where the SFT model
was unsure or wrong, held to it by a KL term that grows with uncertainty. {headline(evaluation["gsm8k"])}

{table}

{remarks}`uncertainty.json` holds the scales of its uncertainty and a threshold ({threshold}); above it, do not rely on an answer.
{promise} All figures are from prompts that no training has seen. They say nothing about other tasks or languages.
"""
