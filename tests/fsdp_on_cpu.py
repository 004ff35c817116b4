"""Run a stage under FSDP on a CPU: `accelerate launch --config_file presets/accelerate/fsdp.yaml tests/fsdp_on_cpu.py stages/sft.py`.

Accelerate takes FSDP for GPUs alone, although torch's own runs on a CPU as well. Here its state says FSDP for the
processes on a CPU too; all that follows is what a GPU would run.
"""

import os
import runpy
import sys
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_init = AcceleratorState.__init__


def init(self, *args, fsdp_plugin=None, **kwargs):
    _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        self.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin


AcceleratorState.__init__ = init
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
runpy.run_path(sys.argv[0], run_name="__main__")
