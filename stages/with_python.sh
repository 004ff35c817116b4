#!/bin/sh
# Runs a stage: `sh stages/with_python.sh stages/sft.py`. Takes the python on PATH if it has the pipeline's packages,
# else the one that runs DVC, so that `.venv/bin/dvc repro` works in an environment that is not activated.
# Threads that wait sleep instead of spinning: two experiments on one CPU else slow each other down tenfold.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
fits() { "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("trl") is None)' 2>/dev/null; }

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
