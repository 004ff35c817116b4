"""Four architectures, small, with random weights, rows of tokens for them, and what sampling asks of their tokenizer."""

from types import SimpleNamespace

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
