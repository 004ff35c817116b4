"""vLLM as the sampler: it draws token ids in a process of its own, and Anchora's own pass over them gives their entropies.

The process lives while responses are drawn, so that its memory is free again when they are scored. On a GPU the policy waits in main
memory for as long.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch

from anchora.model.adapters import WEIGHTS, read_adapter_config, tokenizer_source
from anchora.model.batches import Batch, Row
from anchora.model.capabilities import can_share_prompts
from anchora.model.loading import end_tokens
from anchora.model.logps import hidden_states, map_logits, response_values
from anchora.model.pins import Pretrained
from anchora.model.processes import rank_and_world_size
from anchora.model.seeds import derived_seed
from anchora.run.declared import stage_name
from anchora.run.errors import UserError
from anchora.run.logs import log_folder
from anchora.sampling import vllm_process
from anchora.sampling.params import SamplingParams
from anchora.sampling.responses import Request, Response, ended_response, map_shards, not_finite_error

ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM makes room for one of these
SAME_LOGPS = 0.1  # nats a token, mean absolute difference: rounding in bfloat16 makes a tenth of it, another model several times it
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_")  # what launchers set
GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")  # as the stage was started: use_machine narrows it to one


class Engine:
    """The process of ``vllm_process`` for one policy; it is started when it is first asked."""

    process: subprocess.Popen | None = None

    def __init__(self, files: Pretrained, params: SamplingParams):
        """Raises UserError where vLLM is missing or too old, and for an adapter that it would not serve."""
        vllm_process.check_installed()
        if params.vllm_tensor_parallel > 1 and rank_and_world_size()[1] > 1:
            raise UserError(
                f"vllm_tensor_parallel: {params.vllm_tensor_parallel}, but the launcher starts {rank_and_world_size()[1]} processes, each "
                "with an engine of its own: set it to 1, or launcher to sh stages/with_python.sh"
            )
        self.start_request, self.params = start_request(files, params), params
        self.log = log_folder(params.log_dir) / f"{stage_name()}.vllm{rank_and_world_size()[0] or ''}.log"

    def ask(self, request: dict) -> dict:
        """Return the answer to a request. Raises UserError where the engine cannot start, refuses it, or ends."""
        if self.process is None:
            self.start()
            self.exchange(self.start_request)
        return self.exchange(request)

    def start(self) -> None:
        environment = engine_environment(self.params)
        command = [sys.executable, "-m", vllm_process.__name__]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, text=True, encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def exchange(self, request: dict) -> dict:
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        reply = self.process.stdout.readline()
        answer = json.loads(reply) if reply.endswith("\n") else {"error": f"its process ended (exit code {self.process.wait()})"}
        if "error" in answer:
            raise UserError(f"sampler: vllm: {answer['error']} ({self.log} has more); mend it, or set sampler: transformers")
        return answer

    def close(self) -> None:
        """End the process; what it held is free when this returns."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start_request(files: Pretrained, params: SamplingParams) -> dict:
    """Return the request that starts the engine. Raises UserError for an adapter that vLLM would not serve as it is."""
    base, tokenizer = files.base or files, tokenizer_source(files)
    adapter, options = None, {}
    if files.base is not None:
        adapter = files.source
        options = {"enable_lora": True, "max_loras": 1, "max_lora_rank": adapter_room(adapter)}
    model = {
        "model": base.source, "revision": base.revision, "tokenizer": tokenizer.source, "tokenizer_revision": tokenizer.revision,
        "dtype": "bfloat16" if params.use_bf16 else "float32", "max_model_len": params.max_length,
        "tensor_parallel_size": params.vllm_tensor_parallel, "trust_remote_code": params.trust_remote_code,
        "generation_config": "vllm",  # not the model's own penalties and temperatures
        "enable_prefix_caching": True,  # the samples of a prompt share what it was computed to
        **options,
    }  # fmt: skip
    return {"model": model, "adapter": adapter, "threads": params.cpu_threads}


def adapter_room(folder: str) -> int:
    """Return the rank that vLLM must make room for. Raises UserError for an adapter that would end the engine."""
    if not (Path(folder) / WEIGHTS).is_file():
        raise UserError(f"adapter {folder}: it has no {WEIGHTS}: no such adapter, or it has gone since it was loaded")
    config = read_adapter_config(folder)
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    room = next((room for room in ADAPTER_RANKS if room >= rank), None)
    if room is None:
        raise UserError(f"adapter {folder}: its rank is {rank}; vLLM serves {ADAPTER_RANKS[-1]} at most: set sampler: transformers")
    return room


def engine_environment(params: SamplingParams) -> dict[str, str]:
    """Return the engine's environment: this one without what a launcher set, with the GPUs that the stage was started with.

    Of several processes each gets the GPU of its own rank.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
    stages = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [stages, environment.get("PYTHONPATH")]))
    if params.device == "cpu":
        return environment
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if rank_and_world_size()[1] > 1:
        own = int(os.environ.get("LOCAL_RANK", "0"))
        return environment | {"CUDA_VISIBLE_DEVICES": GPUS.split(",")[own] if GPUS else str(own)}
    return environment | ({} if GPUS is None else {"CUDA_VISIBLE_DEVICES": GPUS})


def sample_by_vllm(model, tokenizer, requests: Sequence[Request], params: SamplingParams, seed: int) -> list[list[list[Response]]]:
    """Draw the responses of all requests by one engine, then score them; what ``sample_responses`` promises.

    Raises UserError for a prompt that leaves no room for a response, and for whatever vLLM cannot take.
    """
    check_lengths(requests, params)
    engine = Engine(model.policy_files, params)
    with off_the_gpu(model), contextlib.closing(engine):
        drawn = [
            draw(engine, model, tokenizer, request, params, derived_seed(seed, "vllm", number)) for number, request in enumerate(requests)
        ]
    return [scored(model, tokenizer, request, samples, params) for request, samples in zip(requests, drawn, strict=True)]


def check_lengths(requests: Sequence[Request], params: SamplingParams) -> None:
    """Raise UserError for a prompt that leaves no room for a response: vLLM would refuse all prompts with it."""
    for request in requests:
        for index, prompt in enumerate(request.prompts):
            if len(prompt) > params.room():
                raise UserError(
                    f"{request.label}: prompt {index + 1} has {len(prompt)} tokens, more than max_length - max_new_tokens = "
                    f"{params.room()}; raise max_length, or set overlong_prompts to drop"
                )


@contextmanager
def off_the_gpu(model) -> Iterator[None]:
    """Hold ``model`` in main memory within the block, so that the engine has the GPU; on a CPU it stays where it is."""
    device = model.device
    if device.type == "cpu":
        yield
        return
    model.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        model.to(device)


def draw(engine: Engine, model, tokenizer, request: Request, params: SamplingParams, seed: int) -> list[list[dict]]:
    """Return ``ids`` and vLLM's ``logps`` of every sample of every prompt, drawn shard by shard.

    vLLM draws sample j of a request from a stream of its own, seeded by the request's seed plus j: these lie further apart than that.
    """
    options = {
        "n": request.samples, "temperature": request.temperature, "top_p": request.top_p, "max_tokens": params.max_new_tokens,
        "stop_token_ids": sorted(end_tokens(model, tokenizer)), "stop": params.stop_strings, "detokenize": bool(params.stop_strings),
        "skip_special_tokens": False,  # a stop string may be the text of one
    }  # fmt: skip
    first = seed % 2**62  # so that no sum leaves 64 bits

    def ask(_: int, shard: list[int]) -> list[dict]:
        prompts, seeds = [request.prompts[index] for index in shard], [first + index * (request.samples + 1) for index in shard]
        answer = engine.ask({"prompts": prompts, "seeds": seeds, "sampling": options})
        pairs = zip(chain.from_iterable(answer["ids"]), chain.from_iterable(answer["logps"]), strict=True)
        return [{"ids": ids, "logps": logps} for ids, logps in pairs]

    return map_shards(request, params.responses_at_once(), ask)


def scored(model, tokenizer, request: Request, drawn: list[list[dict]], params: SamplingParams) -> list[list[Response]]:
    """Make responses of what vLLM drew, with the entropies of this process's model.

    Raises UserError where its logits are not finite, and where vLLM's log-probs are those of another model.
    """
    eos_ids = end_tokens(model, tokenizer)
    ended = [
        [ended_response(tokenizer, prompt, sample["ids"], eos_ids, params.stop_strings) for sample in samples]
        for prompt, samples in zip(request.prompts, drawn, strict=True)
    ]
    rows = [(prompt, *(ids for ids, _, _ in responses)) for prompt, responses in zip(request.prompts, ended, strict=True)]
    scores = token_scores(model, rows, tokenizer.pad_token_id, params.scoring_batch_tokens)
    pairs = [pair for of_prompt in scores for pairs in of_prompt for pair in pairs]
    if any(math.isnan(entropy) for entropy, _ in pairs):
        raise not_finite_error(model)
    theirs = [
        logp for samples, of_prompt in zip(drawn, scores, strict=True) for sample, pairs in zip(samples, of_prompt, strict=True)
        for logp in sample["logps"][: len(pairs)]
    ]  # fmt: skip
    difference = sum(abs(logp - other) for (_, logp), other in zip(pairs, theirs, strict=True)) / max(1, len(pairs))
    if difference > SAME_LOGPS:
        raise UserError(
            f"sampler: vllm: its log-probs are {difference:.2f} nats a token off the policy's, in the mean: it computes another model; "
            "set sampler: transformers"
        )
    return [
        [Response.of(*response, [entropy for entropy, _ in pairs]) for response, pairs in zip(responses, of_prompt, strict=True)]
        for responses, of_prompt in zip(ended, scores, strict=True)
    ]


def token_scores(model, rows: Sequence[Row], pad_token_id: int, budget: int) -> list[list[list[list[float]]]]:
    """Compute entropy and log-prob of every token of every response, ``[row][response][token]``, in one pass over them.

    The prompt of a row is computed once for all its responses where the model can do so, in batches of at most ``budget`` tokens.
    """
    longest = max((len(row[0]) + max(map(len, row[1:])) for row in rows), default=0)
    share = any(len(row) > 2 for row in rows) and can_share_prompts(model, pad_token_id, longest)
    parts: list[Row] = []
    for row in rows:
        whole = share and sum(map(len, row)) <= budget
        parts += [row] if whole else [(row[0], response) for response in row[1:]]
    values = iter(
        [of_response for part in response_values(model, parts, pad_token_id, budget, share, entropies_and_logps) for of_response in part]
    )
    return [[next(values) for _ in row[1:]] for row in rows]


def entropies_and_logps(model, batch: Batch) -> torch.Tensor:
    """Compute the entropy of the raw distribution at each response token, and the token's log-prob: (tokens, 2) float32 nats."""

    def both(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logps = logits.log_softmax(-1)
        return torch.stack([torch.special.entr(logps.exp()).sum(-1), logps.gather(-1, targets[:, None]).squeeze(-1)], dim=-1)

    return map_logits(model.get_output_embeddings(), hidden_states(model, batch), both, batch.targets)
