#!/bin/sh
# Runs a stage: `sh stages/with_python.sh stages/sft.py`. Takes the python on PATH if it has the pipeline's packages,
# else the one that runs DVC, so that `.venv/bin/dvc repro` works in an environment that is not activated.
# Where nvidia-smi is there, a stage gets a GPU of its own (stages/with_gpu.py).
# Threads that wait sleep instead of spinning: two experiments on one CPU else slow each other down tenfold.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
fits() { "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("trl") is None)' 2>/dev/null; }
command -v nvidia-smi >/dev/null && set -- stages/with_gpu.py "$@"

fits python && exec python "$@"
pid=$PPID
while [ "${pid:-0}" -gt 1 ]; do
    program=$(ps -o args= -p "$pid" | cut -d' ' -f1)
    case "${program##*/}" in
        python*) fits "$program" && exec "$program" "$@" ;;
    esac
    pid=$(ps -o ppid= -p "$pid" | tr -d ' ')
done
exec python "$@"
