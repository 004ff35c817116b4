"""Log-probs, gradients and MC dropout with Liger's kernels and without, by Triton's interpreter: run by test_liger.py.

    TRITON_INTERPRET=1 PYTHONPATH=stages:tests python tests/liger_on_cpu.py

Prints, as JSON, the largest differences of each architecture. Triton's interpreter gives a kernel its numbers as
Python's own, which have no ``.to``, and knows no libdevice; both are told here, and all else is Liger's code.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import torch
import triton
import triton.language as tl
from liger_kernel.ops import rms_norm
from tiny_models import MODELS, PAIRS
from triton.runtime import interpreter

from anchora.model.batches import collate
from anchora.model.layers import use_liger
from anchora.model.logps import sequence_logps
from anchora.model.pins import from_folder
from anchora.uncertainty.dropout import dropout_information


@triton.jit
def rsqrt(values):
    return 1.0 / tl.sqrt(values)


def number(value):
    return tl.tensor(interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32), tl.float32)


def outcome(model) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of two responses behind one prompt, and the gradient of their weighted sum."""
    prompt, first = PAIRS[1]
    batch = collate([(prompt, first, [7, 8, 2])], 0, torch.device("cpu"), shared=True)
    logps = sequence_logps(model, batch)
    (logps * torch.arange(1, len(logps) + 1)).sum().backward()
    return logps.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


def dropout(model) -> list[float]:
    return dropout_information(model, PAIRS, copies=4, rate=0.3, layer_share=0.5, seed=0, pad_token_id=0, budget=512)


def main() -> None:
    convert = interpreter._implicit_cvt
    interpreter._implicit_cvt = lambda value: number(value) if isinstance(value, float) else convert(value)
    rms_norm.rsqrt = rsqrt
    found = {}
    for name in ("mistral", "llama", "qwen2"):
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        with torch.no_grad():
            model.lm_head.weight.mul_(30)  # random weights alone are so unsure of all that dropout informs of nothing
        own = copy.deepcopy(model)
        (logps, gradient), information = outcome(own), dropout(own)
        use_liger(model, from_folder(name))
        their_logps, their_gradient = outcome(model)
        found[name] = {
            "logps": (their_logps - logps).abs().max().item(),
            "gradient": ((their_gradient - gradient).abs().max() / gradient.abs().max()).item(),
            "dropout": float(np.abs(np.subtract(dropout(model), information)).max() / max(information)),
            "replaced": sum("liger" in module.forward.__module__ for module in model.modules()),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
