"""LoRA under autocast."""

import torch
from peft.tuners.lora import Linear
from tiny_models import MODELS, PAIRS

from anchora.model.batches import collate
from anchora.model.logps import sequence_logps
from anchora.model.lora import add_lora


def test_lora_under_autocast_reads_its_input_as_it_is():
    """PEFT would cast it to float32, the adapters' own format, for autocast to cast it back: the same numbers, more memory."""
    seen, outputs = [], []
    for cast in (False, True):
        torch.manual_seed(0)
        model = add_lora(MODELS["mistral"]().to(torch.bfloat16), 4, 4, 0)
        for module in model.modules():
            if isinstance(module, Linear):
                torch.nn.init.normal_(module.lora_B["default"].weight, std=0.1)
                module.cast_input_dtype_enabled |= cast
                module.lora_A["default"].register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            outputs.append(sequence_logps(model, collate(PAIRS, 0, "cpu")))
    layers = len(seen) // 2
    assert layers == 28 and set(seen[:layers]) == {torch.bfloat16} and set(seen[layers:]) == {torch.float32}
    assert torch.equal(*outputs)
