#!/usr/bin/env bash
# One machine, one process: all of its devices (CPU, GPUs or TPU cores) train together.
#   launch/local.sh --config configs/feelvos.py:paper --config.data.dir=DATA
# writes to runs/feelvos_paper; every flag of vos_jax.main may follow.
# On GPUs JAX reserves 75 % of the memory at start; XLA_PYTHON_CLIENT_PREALLOCATE=false prevents it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -d "$root/.venv/bin" ]]; then export PATH="$root/.venv/bin:$PATH"; fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec python -m vos_jax.main "$@"
