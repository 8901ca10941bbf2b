#!/usr/bin/env bash
# TPU VMs, one or the hosts of a pod slice: run this on all workers at the same time. From outside:
#   gcloud compute tpus queued-resources create NAME --node-id=NAME --zone=ZONE \
#     --accelerator-type=v5litepod-64 --runtime-version=v2-alpha-tpuv5-lite
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="git clone URL vos_jax &&
#     cd vos_jax && python3.11 -m venv .venv &&
#     .venv/bin/pip install -r requirements.txt 'jax[tpu]'"
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd vos_jax &&
#     launch/tpu_vm.sh --config feelvos:paper --config.data.dir=gs://DATA --workdir gs://WORKDIR"
# The metadata server tells each host of the others. Workdir and data are in a bucket, or on a disk
# that all workers have mounted.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -d "$root/.venv/bin" ]]; then export PATH="$root/.venv/bin:$PATH"; fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export VOS_JAX_DISTRIBUTED=1
exec python -m vos_jax.main "$@"
