#!/usr/bin/env bash
# Trains as a Slurm job of several tasks, which is requeued until the run is done. Give it to sbatch
# in the checkout; what is said here can be said otherwise there:
#
#     sbatch --partition=gpu --nodes=2 launch/slurm.sh \
#         --config=configs/imagenet_nest.py:tiny --workdir=/shared/runs/nest_tiny
#
# A task per GPU, as JAX has it on Slurm. For one node of 8: --nodes=1, as below. The workdir is
# where all nodes see it. Two minutes before the time is over the tasks get SIGUSR1, save and exit
# with 75, and the job goes back to the queue; likewise after `scancel --signal=TERM JOB`. `scancel
# JOB` lets it save, too, and ends it.
#
# bash launch/slurm.sh --dry_run ...   prints the commands
#
#SBATCH --job-name=nest_tnt
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -euo pipefail

PYTHON=${PYTHON:-python}
MAX_RESTARTS=${MAX_RESTARTS:-100}
GRACE=${GRACE:-150} # seconds that the other tasks get when one has ended
RETRY_SECONDS=${RETRY_SECONDS:-5} # before Slurm is asked again when it did not answer

# Slurm runs a copy of this file; the checkout is where sbatch was called.
root=${SLURM_SUBMIT_DIR:-$PWD}
if [ ! -f "$root/launch/lib.sh" ]; then
    printf 'slurm.sh: %s is not the checkout; call sbatch there\n' "$root" >&2
    exit 2
fi
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$root/launch/lib.sh"

dry_run=${DRY_RUN:-}
while [ $# -gt 0 ]; do
    case $1 in
        --dry_run) dry_run=1 && shift ;;
        --) shift && break ;;
        *) break ;;
    esac
done
need MAX_RESTARTS "$number" 'a number, such as 100'
need RETRY_SECONDS "$number" 'seconds, such as 5'
need STORAGE_PAUSE "$number" 'seconds, such as 60'
need GRACE '[1-9][0-9]*' 'seconds, such as 150'
check_train_arguments "$@"

# srun does not take it from sbatch (since Slurm 22.05): each task would get one core.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# When one task has ended, the others get GRACE seconds to save or to notice; srun's code is the
# largest of all.
train=(srun --kill-on-bad-exit=0 "--wait=$GRACE" --label "$PYTHON" "$root/train.py" "$@")
[ "${SLURM_NTASKS:-2}" -eq 1 ] || train+=(--distributed)

if [ -n "$dry_run" ]; then
    quoted "${train[@]}"
    quoted scontrol requeue "${SLURM_JOB_ID:-JOB}"
    exit
fi
[ -n "${SLURM_JOB_ID:-}" ] || fail 'this is no Slurm job; give it to sbatch'

# The tasks are told by Slurm; this shell waits until they have saved.
told=
trap 'told=1' TERM USR1
# After 74 in the same job: a job that is requeued does not know what came before.
while true; do
    code=0
    "${train[@]}" || code=$?
    if [ "$code" -ne 74 ] || [ -n "$told" ] || ! runs_again 74 || [ -n "$told" ]; then break; fi
done
[ "$code" -ne 74 ] || [ -z "$told" ] || code=75 # a signal in the pause

# Slurm's controller may be busy, or just be restarted.
retried() {
    local i
    for ((i = 0; i < 6; i++)); do
        ! "$@" || return 0
        sleep "$RETRY_SECONDS"
    done
    return 1
}

# Slurm would requeue what somebody has ended all the same. Who does not know requeues.
is_cancelled() {
    case $(retried squeue --noheader "--jobs=$SLURM_JOB_ID" --format=%T) in
        CANCELLED* | COMPLETING*) return 0 ;;
        *) return 1 ;;
    esac
}

# From 128 on, a signal ended a task. The others then missed it, and can go on with it. One that is
# alone goes on if the signal was one that asks to save: it came before there was anything to save.
was_interrupted() {
    is_restartable "$1" && return
    if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
        [ "$1" -ge 128 ]
    else
        case $1 in 138 | 140 | 143) return 0 ;; *) return 1 ;; esac
    fi
}

if was_interrupted "$code"; then
    restarts=${SLURM_RESTART_COUNT:-0}
    if is_cancelled; then
        say "ended with $code by scancel; run the same sbatch to resume"
    elif [ "$restarts" -ge "$MAX_RESTARTS" ]; then
        say "ended with $code after $restarts restarts"
    else
        say "ended with $code; restart $((restarts + 1))"
        retried scontrol requeue "$SLURM_JOB_ID" || say "cannot be requeued; run the same sbatch to resume"
    fi
fi
exit "$code"
