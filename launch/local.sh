#!/usr/bin/env bash
# Trains in N processes on this machine, and again when they were interrupted.
#
#     launch/local.sh -n 2 -- --config=configs/digits_nest.py --workdir=runs/digits_nest
#
# Each process gets its share of the GPUs. One process takes all of them, too: N is for machines on
# which one process a GPU is quicker, and for trying out what several machines do. What process 0
# prints is shown as it is, the others' lines begin with their number. Ctrl-C lets the run save.
# When one process ends, the others are given GRACE seconds, then killed.
#
# -n N        how many processes
# --dry_run   prints the commands
set -euo pipefail

PYTHON=${PYTHON:-python}
MAX_RESTARTS=${MAX_RESTARTS:-100} # of interrupted runs; Ctrl-C ends all the same
GRACE=${GRACE:-150}               # seconds that the others get to save, or to miss one that died
PORT=${PORT:-}                    # of process 0; empty: a free one

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$root/launch/lib.sh"

pids=()
stopped= # by a signal to this script
tell_all() {
    local pid
    for pid in ${pids[@]+"${pids[@]}"}; do kill -s "$1" "$pid" 2>/dev/null || true; done
}
# In the background, bash lets its children ignore Ctrl-C: they are told to end.
trap 'stopped=1; tell_all TERM' INT TERM HUP QUIT USR1 USR2

N=
dry_run=${DRY_RUN:-}
while [ $# -gt 0 ]; do
    case $1 in
        -n) N=${2-} && shift $(($# > 1 ? 2 : 1)) ;;
        --dry_run) dry_run=1 && shift ;;
        --) shift && break ;;
        *) fail "unknown argument $1; usage: launch/local.sh -n N [--dry_run] -- --config=... --workdir=..." ;;
    esac
done
need STORAGE_PAUSE "$number" 'seconds, such as 60'
need N '[1-9][0-9]*' 'how many processes, such as -n 2'
need MAX_RESTARTS "$number" 'a number, such as 100'
need GRACE "$number" 'seconds, such as 60'
[ -z "$PORT" ] || need PORT '[1-9][0-9]*' 'a free port, such as 8476'
check_train_arguments "$@"

# The GPUs of each process; none where there are none.
shares=()
share_gpus() {
    local gpus=() each i
    [ "${JAX_PLATFORMS:-}" != cpu ] || return 0
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null; then
        while IFS= read -r i; do gpus+=("$i"); done \
            < <(nvidia-smi -L 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p')
    fi
    [ ${#gpus[@]} -gt 0 ] || return 0
    each=$((${#gpus[@]} / N))
    [ $((each * N)) -eq ${#gpus[@]} ] || fail "-n $N: ${#gpus[@]} GPUs cannot be shared out evenly"
    for ((i = 0; i < N; i++)); do
        shares+=("$(IFS=, && printf '%s' "${gpus[*]:i*each:each}")")
    done
}
share_gpus

free_port() {
    "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
}

# Sets `command` to that of a process.
command_of() {
    local process=$1 port=$2
    shift 2
    command=()
    [ ${#shares[@]} -eq 0 ] || command+=(env "CUDA_VISIBLE_DEVICES=${shares[process]}")
    command+=("$PYTHON" "$root/train.py" "$@")
    [ "$N" -eq 1 ] || command+=("--coordinator=localhost:$port" "--num_processes=$N" "--process_id=$process")
}

if [ -n "$dry_run" ]; then
    for ((i = 0; i < N; i++)); do
        command_of "$i" "${PORT:-8476}" "$@"
        quoted "${command[@]}"
    done
    exit
fi

# Runs all processes once, to the end; sets `code`.
run_once() {
    local port i status deadline=
    port=${PORT:-$(free_port)}
    pids=()
    code=75
    for ((i = 0; i < N; i++)); do
        [ -z "$stopped" ] || break
        command_of "$i" "$port" "$@"
        if [ "$i" -eq 0 ]; then
            "${command[@]}" &
        else
            "${command[@]}" > >(sed -u "s/^/[$i] /") 2> >(sed -u "s/^/[$i] /" >&2) &
        fi
        pids+=($!)
        [ -z "$stopped" ] || kill "$!" 2>/dev/null || true # the signal came just before that line
    done
    [ ${#pids[@]} -gt 0 ] || return 0
    local left=("${pids[@]}") codes=() still
    while [ ${#left[@]} -gt 0 ]; do
        still=()
        for i in "${left[@]}"; do
            if kill -0 "$i" 2>/dev/null; then
                still+=("$i")
            else
                status=0 && wait "$i" || status=$?
                codes+=("$status")
                # The others save with it, or find out that it is gone. A signal now could be their
                # second one, which would end them amid that.
                [ -n "$deadline" ] || deadline=$((SECONDS + GRACE))
            fi
        done
        left=(${still[@]+"${still[@]}"})
        if [ ${#left[@]} -gt 0 ]; then
            if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then tell_all KILL; fi
            sleep 0.2
        fi
    done
    # An error of one is the run's, whatever became of the others: they only lost a peer.
    code=0
    for status in "${codes[@]}"; do
        if [ "$status" -eq 0 ]; then
            continue
        elif [ "$status" -lt 128 ] && ! is_restartable "$status"; then
            code=$status
            return
        elif is_restartable "$status" || [ "$code" -eq 0 ]; then
            code=$status
        fi
    done
}

restarts=0
while true; do
    run_once "$@"
    [ -z "$stopped" ] && runs_again "$code" || exit "$code"
    [ -z "$stopped" ] || exit 75 # a signal in the pause
    [ "$restarts" -lt "$MAX_RESTARTS" ] || fail "ended with $code after $restarts restarts"
    restarts=$((restarts + 1))
    say "ended with $code; restart $restarts"
done
