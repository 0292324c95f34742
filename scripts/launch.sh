#!/usr/bin/env bash
# Start a training run on one GPU, one machine or several; the same command continues it.
#   scripts/launch.sh CONFIG.yaml [--key value ...]
# Paths are relative to the repository. Several machines run it each, with the same arguments, or one with a hostfile.
#   NPROC_PER_NODE          ranks on this machine; default: its GPUs, or 1
#   NNODES, NODE_RANK       number of machines, and which of them this is, from 0
#   MASTER_ADDR, MASTER_PORT  where machine 0 listens
#   RDZV_ID                 name of this attempt, the same on all machines
#   LOCAL_ADDR              this machine's address, where its host name does not lead to it
#   HOSTFILE                DeepSpeed hostfile; its machines are reached by ssh, unless NODE_RANK is set on each of them
#   GLOBAL_BATCH            samples per optimizer step; gradient accumulation follows from it
#   PYTHON                  interpreter; default: that of .venv, or python3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -eq 0 || $1 == -* ]]; then
  sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p}' "${BASH_SOURCE[0]}" >&2
  exit 2
fi

if [[ -z ${PYTHON:-} ]]; then
  PYTHON="${CAMBRIAN_GAZE_VENV:-.venv}/bin/python"
  [[ -x $PYTHON ]] || PYTHON=python3
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

count_gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
  else
    echo 0
  fi
}

if [[ -n ${GLOBAL_BATCH:-} ]]; then
  set -- "$@" --global_batch_size "$GLOBAL_BATCH"
fi
gpus="$(count_gpus)"
nnodes="${NNODES:-1}"
nproc="${NPROC_PER_NODE:-$((gpus > 0 ? gpus : 1))}"
ranks=$((nnodes * nproc))
if [[ -n ${HOSTFILE:-} ]]; then
  slots='{ sub(/#.*/, "") } match($0, /slots=[0-9]+/) { n += substr($0, RSTART + 6, RLENGTH - 6) } END { print n + 0 }'
  ranks="$(awk "$slots" "$HOSTFILE")"
  nproc=1
fi
cores="$(nproc)"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > nproc ? cores / nproc : 1))}"

"$PYTHON" -m cambrian_gaze.training.launch.batch "$@" --ranks "$ranks"

if [[ -n ${HOSTFILE:-} ]]; then
  options=(--hostfile "$HOSTFILE" --no_local_rank)
  [[ -z ${MASTER_ADDR:-} ]] || options+=(--master_addr "$MASTER_ADDR")
  [[ -z ${MASTER_PORT:-} ]] || options+=(--master_port "$MASTER_PORT")
  [[ -z ${NODE_RANK:-} ]] || options+=(--no_ssh --node_rank "$NODE_RANK")
  exec "$PYTHON" -m deepspeed.launcher.runner "${options[@]}" --module cambrian_gaze.cli.train "$@"
fi

options=(--nproc_per_node "$nproc")
if ((nnodes > 1)); then
  [[ -n ${NODE_RANK:-} && -n ${MASTER_ADDR:-} ]] || {
    echo "launch.sh: NNODES=$nnodes needs NODE_RANK and MASTER_ADDR" >&2
    exit 2
  }
  # Said outright: torchrun would guess by host names whether this machine is the one that listens.
  is_host=false
  ((NODE_RANK > 0)) || is_host=true
  options+=(--nnodes "$nnodes" --rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:${MASTER_PORT:-29400}")
  options+=(--rdzv_id "${RDZV_ID:-cambrian-gaze}" --rdzv_conf "is_host=$is_host")
  [[ -z ${LOCAL_ADDR:-} ]] || options+=(--local_addr "$LOCAL_ADDR")
else
  options+=(--standalone)
fi
exec "$PYTHON" -m cambrian_gaze.training.launch.agent "${options[@]}" -m cambrian_gaze.cli.train "$@"
