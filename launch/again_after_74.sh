#!/usr/bin/env bash
# Runs a command, and again after a pause if it ended with 74: for places whose own restarts know no
# pause. Signals go to the command.
#
#     launch/again_after_74.sh python train.py --config=... --workdir=...
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

stopped=
pid=
trap 'stopped=1; [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null || true' INT TERM HUP QUIT USR1 USR2
while true; do
    "$@" &
    pid=$!
    [ -z "$stopped" ] || kill -TERM "$pid" 2>/dev/null || true
    while true; do
        code=0
        wait "$pid" || code=$?
        kill -0 "$pid" 2>/dev/null || break # else a signal ended the wait
    done
    pid=
    [ "$code" -eq 74 ] && [ -z "$stopped" ] && runs_again 74 || exit "$code"
    [ -z "$stopped" ] || exit 75
done
