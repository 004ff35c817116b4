"""A classifier's head, the modules behind its backbone: whether a brought reward model has one that can serve, which of an adapter's
file are taken, and its number format.

A verifier is needed only after hours of SFT; what is wrong with it is told before them, without loading its weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PretrainedConfig

from anchora.model.adapters import HEADS, saved_heads, tensor_shapes, tokenizer_source
from anchora.model.pins import Pretrained
from anchora.run.errors import UserError, refused
from anchora.verifiers.pairs import encode_pair

LOGITS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight", "logits_proj.weight")
PROMPT = [{"role": "user", "content": "2 + 2?"}]


def check_brought_verifier(verifier: Pretrained, name: str) -> None:
    """Raise UserError for folders that hold no sequence classifier with one logit, or whose tokenizer cannot encode a pair.

    The number of logits is that of the head in the weight files, of which only the headers are read: an adapter's, or its base's. A
    model that brings code along is left to the stage that loads it, for that code must not run here.
    """
    folder, files = Path((verifier.base or verifier).source), "its files" if verifier.base is None else "its file, nor in its base's"
    if brings_code(folder) or brings_code(Path(verifier.source)):
        return
    with refused(f"{name}: cannot be loaded ({{error}})"):
        one_logit, two_logits = (classifier_shapes(AutoConfig.from_pretrained(folder), labels) for labels in (1, 2))
        saved = saved_shapes(folder) | ({} if verifier.base is None else saved_heads(verifier.source))
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_source(verifier).source)
    for weight, shape in one_logit.items():
        if shape == two_logits[weight]:  # not of the head: its shape depends on no number of labels
            continue
        if weight not in saved:
            raise UserError(f"{name}: no classifier's head is in {files} ({weight}); a verifier is a sequence classifier with one logit")
        if saved[weight] != shape:
            raise logits_error(name, weight, saved[weight][0])
    with refused(f"{name}: its tokenizer cannot encode a prompt with its response ({{error}})"):
        encode_pair(tokenizer, PROMPT, "4", 64, "{prompt}")


def check_adapters_head(adapter: str, name: str) -> None:
    """Raise UserError for an adapter whose file holds a head with another number of logits than one; its base need not be here."""
    for weight, shape in saved_heads(adapter).items():
        if weight in LOGITS and shape[0] != 1:
            raise logits_error(name, weight, shape[0])


def logits_error(name: str, weight: str, logits: int) -> UserError:
    """Make the error for a classifier whose ``weight`` gives ``logits`` logits."""
    return UserError(
        f"{name}: a verifier has one logit, this classifier has {logits} ({weight} in its files); take a reward model with one, such "
        "as one trained on preferences"
    )


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
        shapes |= tensor_shapes(path)
    return shapes


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds a configuration and all of the safetensors files that its index names."""
    index, files = folder / "model.safetensors.index.json", {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / name).is_file() for name in ("config.json", *files))


def heads_to_take(model, pretrained: Pretrained, saved: dict[str, tuple[int, ...]], new_head: bool) -> list[str]:
    """Return the modules of a classifier that its adapter's file replaces; with ``new_head`` only those of its own size.

    ``saved``: the shapes of the whole weights in that file. Raises UserError for a head with another number of logits than one.
    """
    own = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    others = {name for name, shape in saved.items() if own.get(name) != shape}
    if others and not new_head:
        name = min(others)
        raise UserError(
            f"adapter {pretrained.source}: {name} is {list(saved[name])} in its file, {list(own.get(name, ()))} in a "
            f"{type(model).__name__} with one logit, as a verifier has"
        )
    taken = {part for name in saved for part in name.split(".") if part in HEADS}
    return sorted(taken - {part for name in others for part in name.split(".")})


def keep_head_in_float32(model) -> None:
    """Let the modules behind a classifier's backbone compute in float32, from what that gives them.

    A logit of bfloat16 has 8 bits: scores near 4 would be 1/32 apart, and many responses to one prompt would tie.
    """
    for name, head in model.named_children():
        if name != model.base_model_prefix:
            head.float().register_forward_pre_hook(in_float32, with_kwargs=True)


def in_float32(_, inputs: tuple, options: dict) -> tuple[tuple, dict]:
    """Return a module's inputs with floating-point tensors in float32."""

    def cast(value):
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return tuple(map(cast, inputs)), {name: cast(value) for name, value in options.items()}
