# shellcheck shell=bash
# What the launchers share; sourced by them. Works in bash 3.2 and newer.

# Whether to run again after these exit codes of train.py: 75 saved after a signal, or a process
# of the run was lost; 70 the watchdog saw no step in time. 2 (wrong config or input) and 3 (a loss
# that is not finite) would only come again, and so would a bug's 1.
is_restartable() {
    [ "$1" -eq 75 ] || [ "$1" -eq 70 ]
}

# Code 74, a checkpoint or a record that cannot be read or written now, may pass: again after a
# pause, 3 times in a row. Of an attempt that ran for long it is another trouble than the one before.
# Returns whether to run again; waits before.
STORAGE_PAUSE=${STORAGE_PAUSE:-60}
storage_errors=0
attempt_began=0
runs_again() {
    if [ "$1" -ne 74 ]; then
        storage_errors=0
        is_restartable "$1"
        return
    fi
    [ $((SECONDS - attempt_began)) -le $((10 * STORAGE_PAUSE + 10)) ] || storage_errors=0
    storage_errors=$((storage_errors + 1))
    [ "$storage_errors" -le 3 ] || return 1
    say "ended with 74; waiting $STORAGE_PAUSE s"
    # In the background: a signal ends the wait.
    sleep "$STORAGE_PAUSE" &
    local pause=$!
    wait "$pause" || true
    kill "$pause" 2>/dev/null || true
    attempt_began=$SECONDS
}

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 2
}

say() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}

# Prints a command as one types it.
quoted() {
    local words
    printf -v words '%q ' "$@"
    printf '%s\n' "${words% }"
}

# Ends with an error if a variable that must be set is not, or not to what it can be.
#   need NAME 'regular expression' 'what it is, with an example'
need() {
    local value=${!1-}
    [ -n "$value" ] || fail "$1 is not set: $3"
    [[ $value =~ ^($2)$ ]] || fail "$1=$value: $3"
}

# One that bash does not read as octal.
# shellcheck disable=SC2034
number='0|[1-9][0-9]*'

# Returns the value of --workdir=VALUE or --workdir VALUE among arguments.
workdir_of() {
    while [ $# -gt 0 ]; do
        case $1 in
            --workdir=* | -workdir=*) printf '%s\n' "${1#*=}" ;;
            --workdir | -workdir) printf '%s\n' "${2-}" ;;
        esac
        shift
    done
}

# Ends with an error unless the arguments are those of a run.
check_train_arguments() {
    local argument has_config=
    for argument in "$@"; do
        case $argument in
            --config | --config=*) has_config=1 ;;
            # Each start would start over.
            --restart | -restart | --restart=* | -restart=*) fail "$argument is not for a line that runs again; run train.py with it once, by itself" ;;
        esac
    done
    [ -n "$has_config" ] || fail "--config=FILE.py is missing after --"
    [ -n "$(workdir_of "$@")" ] || fail "--workdir=FOLDER is missing after --"
}
