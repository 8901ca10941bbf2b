#!/usr/bin/env bash
# TPU slices on GKE, by xpk: what each container runs. IMAGE holds this clone as its working folder,
# with requirements.txt and jax[tpu] installed.
#   xpk workload create --cluster CLUSTER --workload NAME --tpu-type=v5litepod-64 --num-slices=2 \
#     --docker-image=IMAGE --max-restarts=10 --command="launch/gke_xpk.sh --config feelvos:paper \
#     --config.data.dir=gs://DATA --workdir gs://WORKDIR"
# GKE tells each container of the others of its slice (TPU_WORKER_HOSTNAMES or
# TPU_PROCESS_ADDRESSES) and of other slices (MEGASCALE_*). A restart goes on from the last step.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -d "$root/.venv/bin" ]]; then export PATH="$root/.venv/bin:$PATH"; fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export VOS_JAX_DISTRIBUTED=1
exec python -m vos_jax.main "$@"
