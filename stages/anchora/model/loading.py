"""Load and save models: every weight from safetensors files and finite, and a tokenizer that fits."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import find_adapter_config_file
from transformers.utils import logging as transformers_logging

from anchora.model.adapters import tokenizer_source
from anchora.model.four_bit import four_bit_options, settle
from anchora.model.layers import use_liger
from anchora.model.lora import as_plain_model, load_adapter
from anchora.model.machine import device, return_large_blocks
from anchora.model.params import CausalLMParams, ComputeParams, PolicyParams
from anchora.model.pins import Pretrained, adapter_error, model_name, quantised_error
from anchora.model.positions import max_positions, max_steady_positions
from anchora.run.errors import UserError
from anchora.run.files import first_process, new_folder, read_json

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def load_pretrained(loader, pretrained: Pretrained, params: ComputeParams, **options):
    """Call ``loader.from_pretrained``, with remote code only by ``trust_remote_code``. Raises UserError for every failure but memory's."""
    name = model_name(pretrained)
    if pretrained.revision is None and not Path(name).is_dir():  # transformers would ask the hub for a model of that name
        raise UserError(f"model {name}: cannot be loaded: there is no such folder")
    try:
        return loader.from_pretrained(**pretrained.arguments(), trust_remote_code=params.trust_remote_code, **options)
    except (MemoryError, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # transformers and safetensors raise nearly every kind for a folder that is broken
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model {name}: cannot be loaded: {first[:300]}") from None


def load_model(loader, pretrained: Pretrained, params: ComputeParams, *, new_head: bool = False, replaced: Container[str] = (), **options):
    """Load a model whose every weight is in its safetensors files, and finite.

    ``new_head`` allows a classifier's head, the modules outside of the backbone, to be missing or of another size, and a
    pooler below it to be missing: they are drawn anew. So are the weights that ``replaced`` names. Raises UserError for another
    architecture's weights, which transformers would draw anew too, and for a model with an adapter beside it, which transformers
    would attach unasked.
    """
    name = model_name(pretrained)
    if find_adapter_config_file(pretrained.source, revision=pretrained.revision):
        raise UserError(f"model {adapter_error(name)}")
    model, info = load_pretrained(loader, pretrained, params, use_safetensors=True, output_loading_info=True, **options)
    quantised = getattr(model.config, "quantization_config", None)
    if quantised and "quantization_config" not in options:
        raise UserError(f"model {quantised_error(name, quantised)}")
    backbone = f"{model.base_model_prefix}."
    missing = sorted(key for key in info["missing_keys"] if key.startswith(backbone) or not new_head)
    drawn_anew = (".position_ids", ".pooler.dense.weight", ".pooler.dense.bias") if new_head else (".position_ids",)
    missing = [key for key in missing if not key.endswith(drawn_anew) and key not in replaced]
    if missing:
        raise UserError(
            f"model {name}: {len(missing)} weights of {type(model).__name__} are not in its files, the first of them "
            f"{missing[0]}: its config.json names another architecture, or files are missing"
        )
    for key, saved, expected in sorted(info["mismatched_keys"]):
        if key not in replaced and (key.startswith(backbone) or not new_head):
            logit = f": a verifier has one logit, this classifier has {saved[0]}" if options.get("num_labels") == 1 else ""
            raise UserError(f"model {name}: {key} is {list(saved)} in its files, {list(expected)} in {type(model).__name__}{logit}")
    for key, weight in model.named_parameters():
        if not torch.isfinite(weight.detach().sum(dtype=torch.float32)):
            raise UserError(f"model {name}: weight {key} holds values that are not finite; the model was saved broken")
    return model


def load_tokenizer(pretrained: Pretrained, params: ComputeParams):
    """Load a policy's tokenizer, with a pad token (its EOS where it has none of its own); an adapter without one has its base's.

    Raises UserError for a tokenizer without an end-of-sequence token: its model could never stop.
    """
    pretrained = tokenizer_source(pretrained)
    tokenizer = load_pretrained(AutoTokenizer, pretrained, params)
    if tokenizer.eos_token_id is None:
        name = model_name(pretrained)
        raise UserError(f"model {name}: its tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_vocabulary(model, tokenizer, pretrained: Pretrained) -> None:
    """Raise UserError for a tokenizer with ids that the model has no embedding for.

    Special tokens that no prompt is made of may lack one: of Gemma 3's text models the tokenizer knows the token of an image.
    """
    rows = model.get_input_embeddings().num_embeddings
    used = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk", "sep", "cls")}
    template = str(tokenizer.chat_template)
    added = tokenizer.added_tokens_decoder.items()
    unused = {index for index, token in added if token.special and index not in used and token.content not in template}
    largest = max((index for index in tokenizer.get_vocab().values() if index not in unused), default=0)
    if largest >= rows:
        raise UserError(
            f"model {model_name(pretrained)}: its tokenizer has ids up to {largest}, its embedding {rows} rows; they belong to different "
            "models, or tokens were added without resizing the embedding"
        )


def check_positions(model, max_length: int, pretrained: Pretrained) -> None:
    """Raise UserError for a model that cannot read ``max_length`` tokens, or not without regard to what else is in the batch."""
    name, positions, steady = model_name(pretrained), max_positions(model), max_steady_positions(model)
    if positions is not None and max_length > positions:
        raise UserError(f"max_length: {max_length}, but model {name} reads {positions} tokens at most; lower it")
    if steady is not None and max_length > steady:
        raise UserError(
            f"max_length: {max_length}, but above {steady} tokens model {name} takes other rotary frequencies for all of a batch, so "
            f"that log-probs would depend on what else is in it; lower it to {steady}"
        )


def load_causal_lm(
    pretrained: Pretrained,
    params: CausalLMParams,
    dtype: torch.dtype | Literal["auto"] | None = None,
    *,
    trainable: bool = False,
    tokenizer=None,
) -> tuple[Any, Any]:
    """Load a causal language model in ``dtype``, by default that of ``use_bf16``, and its tokenizer; "auto" is as it is stored.

    An adapter is loaded onto its base, as a PeftModel. The base of an adapter, and any model that is ``trainable``, is held in four
    bits where ``load_in_4bit`` asks for it. With ``tokenizer`` the model serves that one in place of its own, which it may lack.
    Raises UserError for whatever cannot be loaded.
    """
    base, tokenizer = pretrained.base or pretrained, tokenizer or load_tokenizer(pretrained, params)
    dtype = dtype or (torch.bfloat16 if params.use_bf16 else torch.float32)
    options: dict[str, Any] = {} if params.attn_implementation == "auto" else {"attn_implementation": params.attn_implementation}
    in_4bit = params.load_in_4bit and (trainable or base is not pretrained)
    if base is not pretrained:
        check_base_format(pretrained, params)
    if in_4bit:
        return_large_blocks()
        options |= four_bit_options(dtype, device())
    model = load_model(AutoModelForCausalLM, base, params, dtype=dtype, **options)
    if in_4bit:
        settle(model, model_name(base))
    check_vocabulary(model, tokenizer, base)
    use_savable_settings(model)
    end_where_trained(model, tokenizer)
    model.get_input_embeddings().padding_idx = None  # where padding is the EOS token, that one is to be learnt like any other
    text_config = model.config.get_text_config()
    if getattr(text_config, "output_router_logits", False):  # as other trainers leave mixtures of experts: their `generate` then fails
        text_config.output_router_logits = False
    if params.liger_kernels:
        use_liger(model, base)
    return model if base is pretrained else load_adapter(model, pretrained, trainable=trainable), tokenizer


def check_base_format(adapter: Pretrained, params: CausalLMParams) -> None:
    """Raise UserError for an exported adapter whose base was held in another format than ``load_in_4bit`` says: another policy."""
    exported = Path(adapter.source) / "uncertainty.json"
    settings = read_json(exported)["settings"] if exported.is_file() else {}
    trained_in_4bit = settings.get("load_in_4bit", params.load_in_4bit)
    if trained_in_4bit != params.load_in_4bit:
        bits, wanted = ("four bits", "true") if trained_in_4bit else ("full", "false")
        raise UserError(f"adapter {adapter.source}: it was trained on its base in {bits}; set load_in_4bit: {wanted}")


def use_savable_settings(model) -> None:
    """Leave of generation settings that contradict each other the special tokens alone.

    Several published models have a temperature or top_p without do_sample (Vicuna, the first copies of Llama 2): `generate` passes over
    them, and transformers refuses to save them once anything in the settings has changed.
    """
    own = model.generation_config
    try:
        own.validate(strict=True)
    except ValueError:
        tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**tokens)


def end_where_trained(model, tokenizer) -> None:
    """Have the model's own generation settings name the tokenizer's EOS, by which responses are trained to end, beside their own ends.

    Servers go by those settings, so that a saved policy would else write on without an end.
    """
    ends = own_ends(model)
    if tokenizer.eos_token_id not in ends:
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends] if ends else tokenizer.eos_token_id


def end_tokens(model, tokenizer) -> frozenset[int]:
    """Return the token ids that end a response: the tokenizer's EOS and those of the model's generation settings."""
    return frozenset({tokenizer.eos_token_id, *own_ends(model)})


def own_ends(model) -> list[int]:
    """Return the token ids that end a response by the model's generation settings alone."""
    own = model.generation_config.eos_token_id
    return own if isinstance(own, list) else [] if own is None else [own]


def load_policy(pretrained: Pretrained, params: PolicyParams, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Load a policy to sample from, in eval mode on the machine's device, and its tokenizer."""
    model, tokenizer = load_causal_lm(pretrained, params, dtype)
    if pretrained.base is not None:
        model = as_plain_model(model)
    check_positions(model, params.max_length, pretrained)
    return ready_to_sample(model, pretrained), tokenizer


def ready_to_sample(model, pretrained: Pretrained):
    """Return ``model`` in eval mode on the machine's device, with no settings of its own for sampling but its ends of sequence.

    ``pretrained``, the files that hold its weights, are its ``policy_files``: another sampler reads them.
    """
    model.policy_files = pretrained
    own = model.generation_config  # its penalties and temperatures are not this pipeline's
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, bos_token_id=own.bos_token_id)
    return model.to(device()).eval()


def save_policy(path: str | Path, model, tokenizer) -> None:
    """Write a whole model's folder, with the tokenizer beside it; of several processes the first one writes."""
    if not first_process():
        return
    with new_folder(path) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
