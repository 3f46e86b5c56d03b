# shellcheck shell=bash
# What setup, test and lock share. Sourced, with $root set to the repository's root; who calls `step`
# sets $log.
# shellcheck disable=SC2034,SC2154 # variables of the sourcing script, and for it

build=${BATCHAI_BUILD_DIR:-$root/.build}
venv=$root/.venv

if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' plain=$'\e[0m'
else
    bold='' red='' green='' yellow='' plain=''
fi

me=$(basename "$0")

say() { echo "${bold}${me}:${plain} $*"; }
warn() { echo "${bold}${me}:${plain} ${yellow}warning:${plain} $*" >&2; }

# fail MESSAGE [HINT]
fail() {
    echo "${bold}${me}:${plain} ${red}error:${plain} $1" >&2
    if [[ ${2:-} ]]; then
        echo "  what to do: $2" >&2
    fi
    exit 1
}

# usage: print the comment at the head of the calling script.
usage() { sed -n '2,/^set /{s/^# \{0,1\}//;/^set /!p}' "$0"; }

# as_root COMMAND...: only what changes the system is run this way.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        echo "this needs root, and there is no sudo: $*"
        return 1
    fi
}

# advice: what a log's end says about why a command failed.
advice() {
    case $(tail -n 40 "$1") in
    *"No space left on device"*) echo "the disk is full: make room, then run this again" ;;
    *"Temporary failure resolving"* | *"Temporary failure in name resolution"* | *EAI_AGAIN* | \
        *ENOTFOUND* | *"Network is unreachable"* | *ENETUNREACH* | *"Could not resolve"* | \
        *"Failed to establish a new connection"* | *ETIMEDOUT*)
        echo "the network or a proxy does not let this through: check it, then run this again" ;;
    *CERTIFICATE_VERIFY_FAILED* | *SELF_SIGNED_CERT* | *"certificate verify failed"*)
        echo "a proxy here has a certificate of its own: name its CA's file in PIP_CERT and NODE_EXTRA_CA_CERTS" ;;
    *"Could not get lock"*) echo "another package manager is at work: wait for it, then run this again" ;;
    *"Permission denied"* | *EACCES* | *"there is no sudo"*)
        echo "run this as root, or remove .venv and .build if another user made them" ;;
    *"DO NOT MATCH THE HASHES"* | *EINTEGRITY*)
        echo "a download is not what the lock file expects: run this again; if it stays, do not go on" ;;
    *) echo "the log says more; run this again once it is mended: what is done is kept" ;;
    esac
}

# step TEXT COMMAND...: run a command, its output into the log; say how long it took, or why it failed.
# Inside, `set -e` has no effect (bash(1): a list before ||): a function must chain its parts with &&.
step() {
    local text=$1 begin=$SECONDS mark status=0
    shift
    say "$text …"
    mark=$(($(wc -c <"$log") + 1))
    printf '\n== %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null || status=$?
    if ((status)); then
        tail -c "+$mark" "$log" | tail -n 25 | sed 's/^/  | /' >&2
        fail "$text: failed (exit status $status); the whole log is $log" "$(advice "$log")"
    fi
    ((SECONDS - begin < 2)) || say "  done in $((SECONDS - begin)) s"
}

# fingerprint FILE-OR-TEXT...: one hash of files' contents and of words.
fingerprint() {
    local item
    for item in "$@"; do
        if [[ -f $item ]]; then cat "$item"; else printf '%s\n' "$item"; fi
    done | sha256sum | cut -d' ' -f1
}

# stamped NAME FINGERPRINT: whether a part was installed from exactly this.
stamped() { [[ -f $build/stamps/$1 && $(<"$build/stamps/$1") == "$2" ]]; }
stamp() {
    mkdir -p "$build/stamps"
    printf '%s\n' "$2" >"$build/stamps/$1"
}
