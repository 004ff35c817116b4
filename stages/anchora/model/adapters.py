"""Folders of PEFT adapters: which base an adapter stands on, and which adapters are taken.

A folder is an adapter's where it holds adapter_config.json and no model of its own. SFT and the rounds write such folders when
``lora_rank`` is above 0. The base that they name is the pinned one: a hub id at its commit, or ``sha256:`` and the hash of a
folder's files, for a path would mean another folder on another machine, or from another working directory.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from anchora.model.pins import Pretrained, from_pin
from anchora.run.errors import UserError, refused
from anchora.run.files import read_json

ADAPTER_CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in an adapter's file
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name on the hub
# What transformers calls the modules between a backbone and a classifier's logits. PEFT saves some of them with a classifier's adapter.
HEADS = ("score", "classifier", "pre_classifier", "classification_head", "logits_proj", "sequence_summary", "pooler")
REFUSED = {  # settings of a LoRA that changes more than linear layers by a product of two matrices
    "use_dora": "it is a DoRA",
    "lora_bias": "its adapters have biases (lora_bias)",
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "layer_replication": "it repeats layers (layer_replication)",
    "trainable_token_indices": "it replaces token embeddings (trainable_token_indices)",
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens)",
}
PLAIN_STARTS = ("gaussian", "orthogonal", "eva")  # the values of init_lora_weights, but true and false, that leave the base as it is
ADVICE = "only plain LoRA is taken: merge it into its base (PEFT's merge_and_unload)"
EMBEDDINGS_ADAPTED = f"it adapts token embeddings or the output layer; {ADVICE}"


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder holds an adapter's configuration and no model's."""
    return (Path(folder) / ADAPTER_CONFIG).is_file() and not (Path(folder) / "config.json").is_file()


def read_adapter_config(folder: str | Path, heads: bool = False) -> dict:
    """Read an adapter's configuration. ``heads`` allows a classifier's head to be saved with it, and no other whole modules.

    Raises UserError for a file that is no JSON object, for an adapter that is no plain LoRA, and for one without safetensors.
    """
    path = Path(folder) / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f"adapter {folder}: {ADAPTER_CONFIG} is no JSON object")
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise UserError(f"adapter {folder}: its peft_type is {config.get('peft_type')}; only LoRA adapters are taken")
    reasons = [reason for key, reason in REFUSED.items() if config.get(key) and not (heads and key == "modules_to_save")]
    others = sorted({str(module) for module in config.get("modules_to_save") or []} - set(HEADS))
    if heads and others:
        reasons.append(f"it replaces whole modules beside a classifier's head (modules_to_save: {', '.join(others)})")
    if config.get("bias", "none") != "none":
        reasons.append(f"it trained biases (bias: {config['bias']})")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in PLAIN_STARTS:
        reasons.append(f"its first weights were taken out of its base's (init_lora_weights: {start})")
    if reasons:
        raise UserError(f"adapter {folder}: {reasons[0]}; {ADVICE}")
    if not (Path(folder) / WEIGHTS).is_file():
        raise UserError(f"adapter {folder}: it has no {WEIGHTS}; weights are read from safetensors alone")
    return config


def base_name(pin: dict) -> tuple[str, str | None]:
    """Return the name and the commit by which an adapter's configuration names the pinned model under it."""
    return (pin["repo"], pin["revision"]) if "repo" in pin else (f"sha256:{pin['sha256']}", None)


def named_base(config: dict) -> tuple[str, str | None]:
    """Return the name and the commit of the base that an adapter's configuration names; an empty name where it names none."""
    return config.get("base_model_name_or_path") or "", config.get("revision")


def unknown_base_error(folder: str | Path, name: str, revision: str | None) -> UserError:
    """Make the error for an adapter whose base cannot be found, or not without doubt; it says what to write where."""
    advice = f"write the base model's folder, or its hub id with its commit as revision, into {ADAPTER_CONFIG}"
    if not name:
        return UserError(f"adapter {folder}: {ADAPTER_CONFIG} names no base model; {advice}")
    if name.startswith("sha256:"):
        return UserError(f"adapter {folder}: its base is a folder whose files hash to {name[7:19]}..., not the one pinned here; {advice}")
    if REPOSITORY.fullmatch(name) and not COMMIT.fullmatch(str(revision)):
        return UserError(
            f"adapter {folder}: its base {name} is no folder here, and as a model on the hub it needs its commit: set revision in "
            f"{ADAPTER_CONFIG} to 40 hex digits (on the model's page under Files, History)"
        )
    return UserError(f"adapter {folder}: its base {name} is neither a folder here nor a model on the hub; {advice}")


def policy_from_folder(path: str | Path, output_dir: str | Path) -> Pretrained:
    """Locate the policy of a folder: a whole model, or an adapter with the base that it names.

    A base named as the pinned one is that one, wherever it lies by now. Raises UserError for an adapter that is not taken,
    and for a base that cannot be found or whose files have changed or gone since they were pinned.
    """
    if not is_adapter(path):
        return Pretrained(str(path))
    name, revision = named_base(read_adapter_config(path))
    pins = Path(output_dir) / "pins" / "policy.json"
    pinned = read_json(pins) if pins.is_file() else {}
    pinned = pinned.get("base", pinned)  # the base model may be an adapter itself
    if pinned and (name, revision) == base_name(pinned):
        return Pretrained(str(path), base=from_pin(pinned))
    if Path(name).is_dir() and name:
        return Pretrained(str(path), base=Pretrained(name))
    if REPOSITORY.fullmatch(name) and COMMIT.fullmatch(str(revision)):
        return Pretrained(str(path), base=Pretrained(name, revision))
    raise unknown_base_error(path, name, revision)


def tokenizer_source(pretrained: Pretrained) -> Pretrained:
    """Return the files that a model's tokenizer is loaded from: those of an adapter's base where the adapter has none beside it."""
    if pretrained.base is None or (Path(pretrained.source) / "tokenizer_config.json").is_file():
        return pretrained
    return pretrained.base


def check_shapes(adapter: str | Path, base: str | Path, name: str, classifier: bool = False) -> None:
    """Raise UserError, beginning with ``name``, for an adapter with a layer that its ``base``'s folder has not, or has of another size.

    ``classifier``: whether it stands on a sequence classifier with one logit, or else on a language model. No weight of either is
    read. A base that brings code along is left to the stage that loads it: that code must not run here.
    """
    import torch  # here, for most runs pin no adapter
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    with refused(f"{name}: its base {base} cannot be loaded ({{error}})"):
        config = AutoConfig.from_pretrained(base)
    if getattr(config, "auto_map", None):
        return
    shapes = tensor_shapes(Path(adapter) / WEIGHTS)
    loader = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    config.num_labels = 1
    with torch.device("meta"), refused(f"{name}: its base {base} cannot be built ({{error}})"):
        model = loader.from_config(config)
    layers, embeddings = dict(model.named_modules()), (model.get_input_embeddings(), model.get_output_embeddings())
    for key, shape in shapes.items():
        layer_name, _, matrix = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if not matrix.startswith("lora_"):
            continue
        layer = layers.get(layer_name.replace(".base_layer", ""))  # of adapters on two parameters of one module
        if layer is None:
            raise UserError(f"{name}: it was made for another model than its base {base}, which has no layer {layer_name}")
        if layer in embeddings or "embedding" in matrix:
            raise UserError(f"{name}: {EMBEDDINGS_ADAPTED}")
        weight = getattr(layer, "weight", None)
        if weight is None:
            continue  # fused experts, whose parameters have adapters of their own shapes: these are held against them on loading
        outputs, inputs = weight.shape if type(layer).__name__ != "Conv1D" else weight.shape[::-1]  # GPT-2's are transposed
        own, expected = (shape[1], inputs) if matrix == "lora_A" else (shape[0], outputs)
        if own != expected:
            raise UserError(
                f"{name}: it was made for another model than its base {base}: {matrix} of {layer_name} is {own} wide, the base {expected}"
            )


def tensor_shapes(file: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a safetensors file, by name; its data are not read."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def saved_heads(adapter: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every whole weight in an adapter's file, those of a classifier's head, by its name in the classifier."""
    return {name.removeprefix(PREFIX): shape for name, shape in tensor_shapes(Path(adapter) / WEIGHTS).items() if "lora_" not in name}
