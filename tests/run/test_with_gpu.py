"""Stages that run beside each other get a GPU each: stand-ins, listed by an nvidia-smi of the test's own."""

import os
import select
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, dvc, environment, wait_for

import with_gpu

UUIDS = [f"GPU-{letter * 8}-1111-2222-3333-444444444444" for letter in "ab"]
TWO = "".join(f"GPU {number}: NVIDIA H200 (UUID: {uuid})\n" for number, uuid in enumerate(UUIDS))
PARTED = (
    f"GPU 0: NVIDIA A100 (UUID: {UUIDS[0]})\n"
    "  MIG 3g.20gb     Device  0: (UUID: MIG-11111111-aaaa)\n  MIG 1g.5gb      Device  1: (UUID: MIG-22222222-bbbb)\n"
    f"GPU 1: NVIDIA A100 (UUID: {UUIDS[1]})\n"
)
# Says which GPU it has, before and after it imports what it needs, then works until its input ends.
STAGE = """
import os, sys
from pathlib import Path
def use_machine(params): ...
if False: use_machine(None)
Path(sys.argv[1]).write_text(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
sys.stdin.read()
"""


class Machine:
    """A folder with a script that holds a model, and another that does not, on a machine whose GPUs are ``listing``."""

    def __init__(self, folder, listing):
        self.folder = folder
        for name in ("bin", "stages"):
            (folder / name).mkdir()
        (folder / "stages" / "anchora").symlink_to(ROOT / "stages" / "anchora")
        for name in ("with_python.sh", "with_gpu.py"):
            # The locks of this test are no one else's.
            code = (ROOT / "stages" / name).read_text().replace('Path("/tmp/anchora-gpus")', f"Path({str(folder / 'locks')!r})")
            (folder / "stages" / name).write_text(code)
        (folder / "stages" / "train.py").write_text(STAGE)
        (folder / "stages" / "count.py").write_text(STAGE.replace("use_machine", "no_machine"))
        (folder / "params.yaml").write_text("device: auto\n")
        program = folder / "bin" / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho asked >> {folder}/asked\ncat <<'END'\n{listing}END\n")
        program.chmod(0o755)
        self.started = []

    def start(self, out, script="train", **more):
        variables = environment(**more)
        variables["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{variables['PATH']}"
        command = ["sh", "stages/with_python.sh", f"stages/{script}.py", out]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=self.folder, env=variables, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        self.started.append(process)
        return process

    def gpu(self, out):
        """The GPU of the script that writes ``out``, once it runs."""
        wait_for(lambda: (self.folder / out).exists() and (self.folder / out).read_text(), 30)
        return (self.folder / out).read_text().split()[1]

    def said(self, process):
        """The next line that a script prints, within half a minute."""
        assert select.select([process.stdout], [], [], 30)[0], "it says nothing"
        return process.stdout.readline()

    def runs(self, out):
        return (self.folder / out).exists()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    made = Machine(tmp_path, TWO)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def test_each_gets_its_own_and_a_third_waits_for_one_that_is_killed(machine):
    first, second = machine.start("a"), machine.start("b")
    assert sorted([machine.gpu("a"), machine.gpu("b")]) == UUIDS
    third = machine.start("c")
    assert machine.said(third) == "train: waits for a GPU: too few of 2 are free\n"
    assert not machine.runs("c")
    os.kill(first.pid, signal.SIGKILL)
    assert machine.gpu("c") == machine.gpu("a")
    fourth = machine.start("d")
    machine.said(fourth)
    second.communicate()  # ends by itself
    assert machine.gpu("d") == machine.gpu("b")


def test_a_wait_that_is_stopped(machine):
    machine.start("a", CUDA_VISIBLE_DEVICES="1")
    assert machine.gpu("a") == "1"
    waiting = machine.start("b", CUDA_VISIBLE_DEVICES="1")
    assert "waits for a GPU: too few of 1" in machine.said(waiting)
    waiting.terminate()
    assert waiting.wait(10) == 130 and not machine.runs("b")


def test_only_gpus_that_the_user_allows_are_taken_under_any_of_their_names(machine):
    machine.start("a", CUDA_VISIBLE_DEVICES="1")
    assert machine.gpu("a") == "1"
    machine.start("b")
    assert machine.gpu("b") == UUIDS[0]  # the other one is taken, by its index
    waiting = machine.start("c", CUDA_VISIBLE_DEVICES=UUIDS[0][:8])
    assert "waits for a GPU: too few of 1" in machine.said(waiting)


def test_as_many_as_vllm_splits_the_policy_over_all_or_none(machine):
    (machine.folder / "params.yaml").write_text("device: auto\n")
    machine.start("a")
    taken = machine.gpu("a")
    (machine.folder / "params.yaml").write_text("sampler: vllm\nvllm_tensor_parallel: 2\n")
    waiting = machine.start("b")
    assert machine.said(waiting) == "train: waits for 2 GPUs: too few of 2 are free\n"
    (machine.folder / "params.yaml").write_text("sampler: transformers\nvllm_tensor_parallel: 2\n")
    machine.start("c")
    assert {taken, machine.gpu("c")} == set(UUIDS)  # while b waits it holds none
    for process in (machine.started[0], machine.started[2]):
        process.communicate()
    assert machine.gpu("b") == ",".join(UUIDS)
    (machine.folder / "params.yaml").write_text("sampler: vllm\nvllm_tensor_parallel: 3\n")
    said, _ = machine.start("d").communicate(timeout=30)
    assert said.startswith("train: error: vllm_tensor_parallel: 3, but 2 GPU")


def test_who_needs_none_waits_for_none(machine):
    for out in "ab":
        machine.start(out)
        machine.gpu(out)
    asked = (machine.folder / "asked").read_text()
    machine.start("c", script="count")
    machine.start("d", WORLD_SIZE="2")  # one of several processes: their launcher shares the GPUs out
    machine.start("e", WORLD_SIZE="2", CUDA_VISIBLE_DEVICES="0,1")
    assert [machine.gpu(out) for out in "cde"] == ["None", "None", "0,1"]
    (machine.folder / "params.yaml").write_text("seed: 0\ndevice: cpu  # no GPU\n")
    machine.start("f")
    assert machine.gpu("f") == "None"
    assert (machine.folder / "asked").read_text() == asked


def test_locks_that_cannot_be_taken_end_the_stage_in_one_line(machine):
    (machine.folder / "locks").write_text("a file, where a folder is to be")
    said, _ = machine.start("a").communicate(timeout=30)
    assert said.startswith(f"train: error: {machine.folder / 'locks'}: no file can be locked there") and said.count("\n") == 1
    assert machine.started[0].returncode == 1 and not machine.runs("a")


def test_no_gpu_no_driver(machine):
    (machine.folder / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho no driver\nexit 9\n")
    machine.start("a", CUDA_VISIBLE_DEVICES="0")
    machine.start("b", CUDA_VISIBLE_DEVICES="0")
    assert (machine.gpu("a"), machine.gpu("b")) == ("0", "0")
    assert not (machine.folder / "locks").exists()


def test_without_nvidia_smi_nothing_else_is_started(machine):
    (machine.folder / "bin" / "nvidia-smi").unlink()
    (machine.folder / "stages" / "with_gpu.py").write_text("raise SystemExit('was started')")
    machine.start("a")
    assert machine.gpu("a") == "None"


@pytest.mark.parametrize(
    ("visible", "allowed"),
    [
        (None, UUIDS),
        ("1,0", ["1", "0"]),
        ("1, 0", ["1", "0"]),
        ("GPU-b", ["GPU-b"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),  # as CUDA has it: nothing after what names no device
        ("0,7,1", ["0"]),
        ("GPU-", []),  # two begin so
    ],
)
def test_cuda_visible_devices(visible, allowed):
    assert list(with_gpu.allowed_devices(visible, UUIDS)) == allowed


def test_parts_of_a_gpu_are_devices(tmp_path, monkeypatch):
    Machine(tmp_path, PARTED)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert with_gpu.listed_devices() == ["MIG-11111111-aaaa", "MIG-22222222-bbbb", UUIDS[1]]


def test_all_stages_that_hold_a_model_are_known_and_no_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"with_gpu"}
    free = {name for name in scripts if not with_gpu.wants_gpu([f"stages/{name}.py"])}
    assert free == {"prepare_data", "pin_models", "report"}


def test_no_torch_is_loaded_to_choose():
    code = "import sys; sys.path.insert(0, 'stages'); import with_gpu; print({'torch', 'yaml'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.slow
def test_a_queue_of_dvc_fills_the_machine(machine):
    """Three experiments, two GPUs, two jobs: two run beside each other on a GPU each, and the third on one that is given back."""
    folder, seen = machine.folder, machine.folder / "seen"
    code = """
import os, time
from pathlib import Path
if False: use_machine(None)
def log(what): open({seen!r}, "a").write(what + " " + os.environ["CUDA_VISIBLE_DEVICES"] + chr(10))
log("from")
begun = time.monotonic()
while open({seen!r}).read().count("from") < 2 and time.monotonic() - begun < 60: time.sleep(0.1)
time.sleep(1)
log("to")
Path("out.json").write_text("{{}}")
"""
    (folder / "stages" / "train.py").write_text(code.format(seen=str(seen)))
    (folder / "dvc.yaml").write_text(
        "stages: {t: {cmd: sh stages/with_python.sh stages/train.py, params: [seed], metrics: [out.json: {cache: false}]}}\n"
    )
    (folder / "params.yaml").write_text("device: auto\nseed: 0\n")
    (folder / ".gitignore").write_text("/bin\n/seen\n/locks\n/asked\n/out.json\n__pycache__\n")
    path = f"{folder / 'bin'}{os.pathsep}{environment()['PATH']}"
    for command in (["init"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    dvc(folder, "init")
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "dvc"], cwd=folder, check=True)
    dvc(folder, "exp", "run", "--queue", "-S", "seed=1,2,3", PATH=path)
    dvc(folder, "queue", "start", "--jobs", "2", PATH=path)
    wait_for(lambda: seen.exists() and seen.read_text().count("to") == 3, 120)
    running: list[str] = []
    most = 0
    for line in seen.read_text().splitlines():
        event, gpu = line.split()
        assert (gpu in running) == (event == "to"), seen.read_text()
        running = [*running, gpu] if event == "from" else [other for other in running if other != gpu]
        most = max(most, len(running))
    assert most == 2
