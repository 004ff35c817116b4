"""Reward models that were brought: whether a folder holds one that can serve, found without loading its weights.

A verifier is needed only after hours of SFT; what is wrong with it is told before them.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PretrainedConfig

from anchora.run.errors import UserError, refused
from anchora.verifiers.pairs import encode_pair

PROMPT = [{"role": "user", "content": "2 + 2?"}]


def check_brought_verifier(folder: str | Path, name: str) -> None:
    """Raise UserError for a folder that is no sequence classifier with one logit, or whose tokenizer cannot encode a pair.

    The number of logits is that of the head in the weight files, of which only the headers are read. A model that brings code
    along is left to the stage that loads it, for that code must not run here.
    """
    if brings_code(Path(folder)):
        return
    with refused(f"{name}: cannot be loaded ({{error}})"):
        one_logit, two_logits = (classifier_shapes(AutoConfig.from_pretrained(folder), labels) for labels in (1, 2))
        saved = saved_shapes(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    for weight, shape in one_logit.items():
        if shape == two_logits[weight]:  # not of the head: its shape depends on no number of labels
            continue
        if weight not in saved:
            raise UserError(f"{name}: no classifier's head is in its files ({weight}); a verifier is a sequence classifier with one logit")
        if saved[weight] != shape:
            raise UserError(
                f"{name}: a verifier has one logit, this classifier has {saved[weight][0]} ({weight} in its files); take a reward "
                "model with one, such as one trained on preferences"
            )
    with refused(f"{name}: its tokenizer cannot encode a prompt with its response ({{error}})"):
        encode_pair(tokenizer, PROMPT, "4", 64, "{prompt}")


def brings_code(folder: Path) -> bool:
    """Return whether a model's folder names Python code of its own for its configuration, model or tokenizer."""
    files = [folder / name for name in ("config.json", "tokenizer_config.json")]
    return any('"auto_map"' in file.read_text(encoding="utf-8") for file in files if file.is_file())


def classifier_shapes(config: PretrainedConfig, labels: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of the sequence classifier that ``config`` describes, for a number of labels."""
    config.num_labels = labels
    with torch.device("meta"):  # nothing is allocated
        model = AutoModelForSequenceClassification.from_config(config)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a folder's safetensors files, by name; their data are not read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds a configuration and all of the safetensors files that its index names."""
    index, files = folder / "model.safetensors.index.json", {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / name).is_file() for name in ("config.json", *files))
