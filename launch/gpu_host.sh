#!/usr/bin/env bash
# Several GPU machines without a scheduler: run this on each of them, one process with all its GPUs.
#   JAX_COORDINATOR_ADDRESS=host0:8476 JAX_NUM_PROCESSES=4 JAX_PROCESS_ID=0 \
#     launch/gpu_host.sh --config feelvos:paper --config.data.dir=DATA --workdir WORKDIR
# with ids 0 to 3, 0 on host0, whose port the others must reach. DATA and WORKDIR are the same
# folders, or gs:// paths, on all machines. CUDA_VISIBLE_DEVICES restricts the GPUs of one.
set -euo pipefail
: "${JAX_COORDINATOR_ADDRESS:?HOST:PORT of the machine with id 0}"
: "${JAX_NUM_PROCESSES:?how many machines there are}"
: "${JAX_PROCESS_ID:?which of them this one is, from 0}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -d "$root/.venv/bin" ]]; then export PATH="$root/.venv/bin:$PATH"; fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec python -m vos_jax.main "$@"
