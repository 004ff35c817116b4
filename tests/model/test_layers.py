"""Compiled decoder layers: the same figures as without."""

import shutil

import pytest
import torch
from tiny_models import PAIRS

from anchora.model.batches import collate
from anchora.model.layers import compile_layers
from anchora.model.logps import sequence_logps
from anchora.model.lora import add_lora


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_compiled_layers_give_the_same_log_probs_and_gradients(model, checkpointed):
    """Of lines of one row and of several, of any length, chosen and rejected behind one prompt and apart."""
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = add_lora(model, 4, 4, 0)
    for module in model.modules():
        module.training = getattr(module, "gradient_checkpointing", False)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    several = [(prompt, response, response[:2]) for prompt, response in PAIRS]
    lines = [several, *([(list(range(2, 2 + n)), [7] * n, [8])] for n in (9, 30, 50))]

    def figures() -> list[torch.Tensor]:
        results = []
        for batch in [collate(rows, 0, "cpu", shared) for rows in lines for shared in (True, False)]:
            model.zero_grad()
            ours = sequence_logps(model, batch)
            ours.sum().backward()
            results += [ours.detach(), torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])]
        return results

    uncompiled = figures()
    compile_layers(model)
    for ours, expected in zip(figures(), uncompiled, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5)
