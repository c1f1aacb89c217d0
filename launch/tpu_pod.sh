#!/usr/bin/env bash
# Trains on a TPU pod slice: asks for it as a queued resource, copies the checkout to its hosts,
# trains on all of them, and starts again when the run was interrupted or the slice taken away.
#
#     TPU_NAME=nest PROJECT=my-project ZONE=us-west4-a launch/tpu_pod.sh -- \
#         --config=configs/imagenet_nest.py:tiny --workdir=gs://my-bucket/runs/nest_tiny
#
# Needs gcloud, logged in. The committed state of the checkout is what trains. The workdir is in a
# bucket, since each host has a disk of its own; so are the data, or on a disk that all hosts mount.
# The slice stays until it is deleted: the last line says how.
#
# --dry_run   prints the commands
set -euo pipefail

# Set these:
TPU_NAME=${TPU_NAME:-} # of the slice, and of its place in the queue
PROJECT=${PROJECT:-}
ZONE=${ZONE:-}
# And these, if need be:
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5litepod-16}
RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite} # v2-alpha-tpuv6e, tpu-ubuntu2204-base (v4), ...
SPOT=${SPOT-1}                                         # empty: a slice that is not taken away
SETUP=${SETUP:-'python3 -m pip install -q -r requirements.txt -r requirements-buckets.txt "jax[tpu]"'}
PYTHON=${PYTHON:-python3} # on the hosts: 3.11 or newer
MAX_RESTARTS=${MAX_RESTARTS:-100}
POLL_SECONDS=${POLL_SECONDS:-30}

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$root/launch/lib.sh"

dry_run=${DRY_RUN:-}
while [ $# -gt 0 ]; do
    case $1 in
        --dry_run) dry_run=1 && shift ;;
        --) shift && break ;;
        *) fail "unknown argument $1; usage: launch/tpu_pod.sh [--dry_run] -- --config=... --workdir=gs://..." ;;
    esac
done
need TPU_NAME '[a-z]([-a-z0-9]*[a-z0-9])?' "the slice's name, such as nest-tiny"
need PROJECT '[a-z][-a-z0-9:.]*' 'the Google Cloud project'
need ZONE '[a-z]+-[a-z]+[0-9]+-[a-z]' 'a zone that has such slices, such as us-west4-a'
need ACCELERATOR_TYPE '[a-z0-9]+-[1-9][0-9]*' 'generation and size, such as v5litepod-16'
need MAX_RESTARTS "$number" 'a number, such as 100'
need POLL_SECONDS "$number" 'seconds, such as 30'
need STORAGE_PAUSE "$number" 'seconds, such as 60'
check_train_arguments "$@"
[[ $(workdir_of "$@") == gs://?* ]] || fail "--workdir=$(workdir_of "$@"): each host has a disk of its own; allowed: gs://BUCKET/FOLDER"

place=("--project=$PROJECT" "--zone=$ZONE")
queue=(gcloud alpha compute tpus queued-resources)
create=("${queue[@]}" create "$TPU_NAME" "--node-id=$TPU_NAME" "${place[@]}"
    "--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION")
[ -z "$SPOT" ] || create+=(--spot)
describe=("${queue[@]}" describe "$TPU_NAME" "${place[@]}" '--format=value(state.state)')
delete=("${queue[@]}" delete "$TPU_NAME" "${place[@]}" --force --quiet)
archive=(git -C "$root" archive --format=tar.gz "--output=/tmp/$TPU_NAME.tar.gz" HEAD)
copy=(gcloud compute tpus tpu-vm scp "/tmp/$TPU_NAME.tar.gz" "$TPU_NAME:checkout.tar.gz" "${place[@]}" --worker=all)
ssh=(gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" --worker=all)
setup=("${ssh[@]}" "--command=mkdir -p checkout && tar -xzf checkout.tar.gz -C checkout && cd checkout && $SETUP")
# A run outlives a lost connection: the next one waits until it has let go of the lock.
train=("${ssh[@]}" "--command=cd checkout && exec flock /tmp/train.lock $(quoted "$PYTHON" train.py "$@" --distributed)")

if [ -n "$dry_run" ]; then
    quoted "${create[@]}"
    quoted "${describe[@]}"
    quoted "${archive[@]}"
    quoted "${copy[@]}"
    quoted "${setup[@]}"
    quoted "${train[@]}"
    quoted "${delete[@]}"
    exit
fi

command -v gcloud >/dev/null || fail 'gcloud is not installed: https://docs.cloud.google.com/sdk/docs/install'
[ -z "$(git -C "$root" status --porcelain)" ] || say 'what is not committed does not come along'

# Waits until the slice is there, asking for it again when it was taken away; returns 1 if that took
# a new one, whose hosts are empty.
have_slice() {
    local state='' last='' is_new=0 refused=0
    while true; do
        state=$("${describe[@]}" 2>/dev/null) || state=NONE
        [ "$state" = "$last" ] || say "the slice is $state"
        last=$state
        case $state in
            ACTIVE) return "$is_new" ;;
            NONE)
                if ! "${create[@]}" >&2; then
                    refused=$((refused + 1))
                    [ "$refused" -lt 5 ] || fail 'the slice cannot be asked for: see above'
                fi
                ;;
            SUSPENDED | FAILED) "${delete[@]}" >&2 || true ;;
        esac
        [ "$state" = ACTIVE ] || is_new=1
        sleep "$POLL_SECONDS"
    done
}

restarts=0
is_ready=
while true; do
    have_slice || is_ready=
    code=0
    if [ -z "$is_ready" ]; then
        "${archive[@]}"
        { "${copy[@]}" && "${setup[@]}"; } || code=$?
        if [ "$code" -eq 0 ]; then is_ready=1; fi
    fi
    if [ -n "$is_ready" ]; then
        "${train[@]}" || code=$?
    fi
    # 255 is ssh's own: the connection is lost, or the slice.
    if [ "$restarts" -ge "$MAX_RESTARTS" ] || { [ "$code" -ne 255 ] && ! runs_again "$code"; }; then
        say "ended with $code; this gives the slice back: $(quoted "${delete[@]}")"
        exit "$code"
    fi
    restarts=$((restarts + 1))
    say "ended with $code; restart $restarts"
    sleep "$POLL_SECONDS"
done
