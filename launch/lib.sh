# shellcheck shell=bash
# What the launchers share; sourced by them. Works in bash 3.2 and newer.

# Whether to run again after these exit codes of train.py: 75 saved after a signal, or a process
# of the run was lost; 70 the watchdog saw no step in time. 2 (wrong config or input) and 3 (a loss
# that is not finite) would only come again, and so would a bug's 1.
is_restartable() {
    [ "$1" -eq 75 ] || [ "$1" -eq 70 ]
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
        case $argument in --config | --config=*) has_config=1 ;; esac
    done
    [ -n "$has_config" ] || fail "--config=FILE.py is missing after --"
    [ -n "$(workdir_of "$@")" ] || fail "--workdir=FOLDER is missing after --"
}
