"""Count what each stage takes of a GPU's memory and of the disk, for a policy's shape and a preset; nothing is run.

    python tests/benchmarks/memory.py [--preset presets/mistral-7b-16gb.yaml]

Prints the table of docs/models.md. Counted are, for each stage at its fullest moment: weights (in four bits NF4 with double
quantisation, embeddings and output layer in the number format of the stage), adapters with their gradients and AdamW's two moments in
float32, keys and values of sampling, what a backward pass keeps of the forward pass, and what one layer holds while it computes. Texts
are as long as ``max_length`` allows. test_memory.py holds the rules against what torch allocates for a small shape.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "stages")]

import yaml  # noqa: E402

from anchora.model.logps import CHUNK_LOGITS, CHUNK_TOKENS  # noqa: E402
from anchora.uncertainty.dropout import CANDIDATES  # noqa: E402

GB = 1e9
CARD = 16.0  # GB: a card of 16 GB has 14.9 GiB at least
CONTEXT = 0.6  # GB that CUDA, cuBLAS and the kernels take before torch's first tensor
FRAGMENTATION = 0.1  # of what is counted: blocks that torch's allocator holds and cannot use
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # a code a weight, a byte of scale every 64, and a float32 every 256 of those


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool = False

    @property
    def kv(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    def linears(self) -> list[tuple[int, int]]:
        """List inputs and outputs of a layer's linear layers."""
        h, i = self.hidden, self.intermediate
        return [(h, h), (h, self.kv), (h, self.kv), (h, h), (h, i), (h, i), (i, h)]

    def decoder_weights(self) -> int:
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears())

    def embedding_weights(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    def adapter_weights(self, rank: int) -> int:
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears())


MISTRAL_7B = Shape(vocabulary=32768, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8)
LLAMA_135M = Shape(vocabulary=49152, hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, tied=True)
BERT_WEIGHTS, BERT_LAYERS, BERT_HIDDEN, BERT_LENGTH = 109.5e6, 12, 768, 512  # bert-base-uncased


class Stage(NamedTuple):
    """What a stage takes at its fullest moment, in bytes."""

    name: str
    weights: float
    cache: float
    activations: float

    def total(self) -> float:
        return self.weights + self.cache + self.activations

    def needed(self) -> float:
        """Return the GB of a card that hold it: with CUDA's own and the margin for fragmentation."""
        return self.total() * (1 + FRAGMENTATION) / GB + CONTEXT


@dataclass(frozen=True)
class Count:
    """Counts for a shape, with adapters of ``rank`` over a base in four bits or not, computing with numbers of ``size`` bytes."""

    shape: Shape
    rank: int
    four_bit: bool
    size: int  # 2 for bfloat16, 4 for float32

    def weights(self) -> float:
        """Return the bytes of the policy with its adapter, which is in float32."""
        decoder = self.shape.decoder_weights() * (NF4_BITS / 8 if self.four_bit else self.size)
        return decoder + self.shape.embedding_weights() * self.size + 4 * self.shape.adapter_weights(self.rank)

    def training_state(self) -> float:
        """Return the bytes of gradients and AdamW's two moments, in float32."""
        return 12 * self.shape.adapter_weights(self.rank)

    def kept_of_a_layer(self) -> float:
        """Return the bytes a token that a backward pass keeps of one layer with adapters on all its linear layers.

        Two norms keep their input in float32 and the state that they give; attention its queries, keys and values, repeated for all
        heads, and its result; the feed-forward block what it computes four times as wide; every adapter its low-rank product.
        """
        h, i = self.shape.hidden, self.shape.intermediate
        norms = 2 * (4 * h + self.size * h)
        return norms + self.size * (4 * h + 4 * i + 7 * self.rank)

    def in_flight(self) -> float:
        """Return the bytes a token of the gradients that one layer's backward pass holds beyond what it has freed by then."""
        return self.size * (2 * self.shape.intermediate + 2 * self.shape.hidden)

    def dequantised(self) -> float:
        """Return the bytes of the largest weight while it is restored from four bits."""
        return max(inputs * outputs for inputs, outputs in self.shape.linears()) * self.size * self.four_bit

    def chunk(self, tokens: int) -> int:
        """Return of how many of ``tokens`` the logits are held at once."""
        return min(tokens, max(CHUNK_TOKENS, CHUNK_LOGITS // self.shape.vocabulary))

    def logits(self, tokens: int) -> float:
        """Return the bytes of the logits that are held at once: computed, in float32, and as a gradient."""
        return self.chunk(tokens) * self.shape.vocabulary * (4 + 4 + (2 * self.size if self.size < 4 else 0))

    def training(self, tokens: int, checkpointing: bool) -> float:
        """Return the bytes that training holds beside weights and optimiser for ``tokens`` in one pass."""
        layers, h = self.shape.layers, self.shape.hidden
        kept = layers * (self.size * h if checkpointing else self.kept_of_a_layer())
        one_layer = self.in_flight() + (self.kept_of_a_layer() if checkpointing else 0)
        return tokens * kept + max(tokens * one_layer + self.dequantised(), self.logits(tokens))

    def passing(self, tokens: int) -> float:
        """Return the bytes of a pass without gradients: what one layer holds of ``tokens``.

        It is fullest at the second linear layer of the feed-forward block. An adapter's part of the output is in float32 three times:
        as computed, scaled, and added to the base's.
        """
        h, i = self.shape.hidden, self.shape.intermediate
        adapters = 3 * 4 * i + (4 * h if self.size < 4 else 0) if self.rank else self.size * i
        return tokens * (2 * self.size * (h + i) + adapters) + self.dequantised()

    def cache_of_a_token(self) -> float:
        return 2 * self.shape.layers * self.shape.kv * self.size

    def sampling(self, responses: int, length: int, room: int) -> tuple[float, float]:
        """Return the bytes of cache and of all else where ``responses`` of ``length`` tokens, prompt included, are sampled at once.

        The fuller of two moments: all prompts, of ``room`` tokens, in one pass, each for one response; or the last token, when a layer's
        keys and values are copied into more space and the next-token distributions of all responses are taken.
        """
        prefill = (responses * room * self.cache_of_a_token(), self.passing(responses * room))
        cache = responses * length * self.cache_of_a_token()
        last = (cache, cache / self.shape.layers + 6 * 4 * responses * self.shape.vocabulary + self.dequantised())
        return max(prefill, last, key=sum)

    def scoring(self, tokens: int) -> float:
        """Return the bytes of a pass over responses for their log-probs."""
        return max(self.passing(tokens), self.logits(tokens))

    def dropout(self, tokens: int, copies: int, answers: int) -> float:
        """Return the bytes of MC dropout over ``tokens``, of which responses have ``answers``, repeated for ``copies`` passes."""
        compared = self.chunk(answers) * CANDIDATES * self.shape.hidden * self.size  # rows of the output layer, for the likeliest tokens
        states = 2 * tokens * copies * self.shape.hidden * self.size
        return max(self.passing(tokens * copies), states + compared + self.logits(answers))


def verifier(params: dict, training: bool) -> Stage:
    """Count a BERT verifier in float32: scored with, or trained with AdamW on pairs, two lines each."""
    h, length = BERT_HIDDEN, min(BERT_LENGTH, params["max_length"])
    kept = 4 * (16 * h + 2 * length * 12)  # a layer's: states, four times as wide in the feed-forward block, and attention's shares
    if training:
        tokens = 2 * params["batch_size"] * length
        layers = 1 if params["gradient_checkpointing"] else BERT_LAYERS
        return Stage("train_reward, train_judge", 16 * BERT_WEIGHTS, 0, tokens * layers * kept + tokens * BERT_LAYERS * 4 * h)
    return Stage("verifiers", 4 * BERT_WEIGHTS, 0, params["scoring_batch_tokens"] * kept)


def stages(shape: Shape, params: dict) -> list[Stage]:
    """Count every stage that holds a model on the GPU, with all of a preset's parameters."""
    size = 2 if params["use_bf16"] else 4
    count = Count(shape, params["lora_rank"], params["load_in_4bit"], size)
    length, room = params["max_length"], params["max_length"] - params["max_new_tokens"]
    responses = params["sampling_batch_size"] * params["samples_per_prompt"]
    state, checkpointing = count.weights() + count.training_state(), params["gradient_checkpointing"]
    cache, rest = count.sampling(responses, length, room)
    scored = params["scoring_batch_tokens"]
    beside = verifier(params, training=False)
    return [
        Stage("`sft`", state, 0, count.training(params["batch_size"] * length, checkpointing)),
        verifier(params, training=True)._replace(name="`train_reward`, `train_judge`"),
        Stage("sampling, in six stages", count.weights(), cache, rest),
        Stage("MC dropout, in the same", count.weights(), 0, count.dropout(scored, params["uncertainty_dropout_samples"], scored)),
        Stage("verifiers beside the policy, in the same", count.weights() + beside.weights, 0, beside.activations),
        Stage("`build_regret_buffer`: log-probs", count.weights(), 0, count.scoring(scored)),
        Stage("`update_policy`", state, 0, count.training(params["update_batch_tokens"], checkpointing)),
        Stage("`evaluate`: reverse KL", count.weights() + shape.vocabulary * shape.hidden * size, 0, 2 * count.scoring(scored)),
    ]


def disk(shape: Shape, params: dict) -> dict[str, float]:
    """Count the bytes of weights on disk: of the base, of ``sft`` and of each round, and of the export."""
    whole = 2 * (shape.decoder_weights() + shape.embedding_weights())  # the base is stored in bfloat16
    adapter = 4 * shape.adapter_weights(params["lora_rank"])
    return {
        "base model": whole,
        "`sft` and each round": adapter if params["lora_rank"] else whole,
        "export": adapter if params["export_format"] == "adapter" else whole,
    }


def table(shape: Shape, params: dict) -> str:
    """Return the table of docs/models.md."""
    lines = ["| stage | weights, optimiser | cache | activations | on the card |", "|---|---|---|---|---|"]
    for stage in stages(shape, params):
        figures = (*(f"{part / GB:.1f}" for part in stage[1:]), f"{stage.needed():.1f}")
        lines.append(f"| {stage.name} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def read_preset(path: Path) -> dict:
    """Read a preset's parameters over the defaults."""
    return yaml.safe_load((ROOT / "params.yaml").read_text()) | yaml.safe_load(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", type=Path, default=ROOT / "presets" / "mistral-7b-16gb.yaml")
    params = read_preset(parser.parse_args().preset)
    print(table(MISTRAL_7B, params))
    print()
    for name, size in disk(MISTRAL_7B, params).items():
        print(f"{name}: {size / GB:.2f} GB")


if __name__ == "__main__":
    main()
