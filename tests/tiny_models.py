"""Four architectures, small, with random weights, rows of tokens for them, and what sampling asks of their tokenizer."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


MODELS = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2)),
}


END = SimpleNamespace(pad_token_id=0, eos_token_id=2, decode=lambda ids, **_: str(ids))
PAIRS = [([5, 6, 7], [8, 9, 2]), ([11, 12, 13, 14, 15], [16, 2]), ([3], [4, 5, 6, 7, 2])]


def mistral_tokenizer_folder(path: Path) -> Path:
    """A tiny Mistral with the real Mistral v3 tokenizer, as its repository on the hub lays it out."""
    mistral_common = pytest.importorskip("mistral_common")
    files = Path(mistral_common.__file__).parent / "data"
    config = MistralConfig(
        vocab_size=32768, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(path)
    shutil.copyfile(files / "mistral_instruct_tokenizer_240323.model.v3", path / "tokenizer.model")
    (path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "add_bos_token": true, "add_eos_token": false, "bos_token": "<s>", "eos_token": "</s>"}'
    )
    return path
