#!/usr/bin/env bash
#SBATCH --job-name=rts-search
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# A sweep on a Slurm cluster: sbatch deploy/slurm.sh SPEC.yaml NAME [OPTIONS]
# Submit it where .venv is, on a file system that all nodes share: docs/cluster/slurm.md
# 300 s before the time limit the sweep ends in order, and the job queues again and goes on with it.
set -euo pipefail
spec=$1 name=$2
shift 2
# shellcheck source=/dev/null
source .venv/bin/activate

umask 077 # the token is for this user's eyes only
mkdir -p ~/.ray
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/token-$SLURM_JOB_ID
export RAY_TMPDIR=/tmp/rts-$SLURM_JOB_ID # not shared with others' jobs on a node
rm -rf "$RAY_TMPDIR"                     # of this job, before it queued again
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
umask 022
again='' ray=''
# shellcheck disable=SC2329  # the trap calls it
end() {
    rm -f "$RAY_AUTH_TOKEN_PATH"
    scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null || true # Ray, on all nodes
    wait "$ray" || true
    [ -z "$again" ] || scontrol requeue "$SLURM_JOB_ID"
}
trap end EXIT
trap 'again=1; exit' USR1
trap exit TERM # cancelled or preempted: Ray's nodes get it too, so that no order is left to keep

# this script runs on the job's first node, which becomes Ray's head
export head=$SLURMD_NODENAME port=$((20000 + SLURM_JOB_ID % 5000 * 2)) # jobs may share a node
# shellcheck disable=SC2016  # for the nodes to expand
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash -c '
    mkdir -p -m 700 "$RAY_TMPDIR"
    [ -O "$RAY_TMPDIR" ] && [ ! -L "$RAY_TMPDIR" ] || exit 1 # another user was there first
    set -- --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
    if [ "$SLURM_PROCID" = 0 ]; then
        set -- --head --port="$port" --ray-client-server-port="$((port + 1))" "$@"
    else
        address=$(getent ahostsv4 "$head" | awk "NR == 1 {print \$1}") # gRPC may fail on names
        set -- --address="$address:$port" "$@"
    fi
    exec ray start --block --disable-usage-stats "$@"' &
ray=$!

# not "auto", which would also find the Ray of another job on this node
pause() { sleep 2 && kill -0 "$ray"; } # fails if Ray has ended: its reasons are above
until [ -s "$RAY_TMPDIR/ray/ray_current_cluster" ]; do pause; done
RAY_ADDRESS=$(<"$RAY_TMPDIR/ray/ray_current_cluster")
export RAY_ADDRESS
alive='import ray, sys
ray.init(logging_level="ERROR")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))'
until python -c "$alive" "$SLURM_NNODES" 2>/dev/null; do pause; done

rts-search sweep "$spec" --name "$name" --resume --address "$RAY_ADDRESS" "$@" &
sweep=$!
trap 'again=1; kill -TERM "$sweep"' USR1
# a signal ends the first wait; the next one is for the sweep's own end
status=0
wait "$sweep" || status=$?
while kill -0 "$sweep" 2>/dev/null; do
    status=0
    wait "$sweep" || status=$?
done
exit "$status"
