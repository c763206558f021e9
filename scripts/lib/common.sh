# Shared by the scripts: where things are, how to speak, how to become root. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
STATE=${XDG_STATE_HOME:-${HOME:-/root}/.local/state}/massgen
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # dockerd and usermod are there; a plain user's PATH often lacks them
export PATH

# Progress goes to stderr: stdout belongs to the program that a script starts.
say() { printf '%s\n' "$*" >&2; }

# die WHAT [NEXT] [CODE]: what happened, what to do next, exit code (2 = the machine lacks something).
die() {
    say "error: $1"
    if [ -n "${2:-}" ]; then say "  next: $2"; fi
    exit "${3:-2}"
}

am_root() { [ "$(id -u)" = 0 ]; }

as_root() {
    if am_root; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "this needs root, and there is no sudo: $*" "run the same script as root"
    fi
}

# One argument, quoted for any sh (printf %q writes forms that only bash reads).
quoted() { printf "'%s' " "${1//\'/\'\\\'\'}"; }

# apt_install WHY PACKAGE…: says it, then does it. Recommended packages are left out; apt's own words go to a log.
apt_install() {
    local why=$1 log=$STATE/apt.log
    shift
    command -v apt-get >/dev/null || die "missing: $* ($why), and this is not a Debian or Ubuntu machine" \
        "install the equivalent of these packages, then run the same command again"
    apt_update
    say "installing $* ($why)"
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" </dev/null >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        die "apt-get could not install: $*" "read $log; the package sources or the network may be missing"
    fi
}

apt_update() {
    if [ -n "${APT_UPDATED:-}" ]; then return; fi
    mkdir -p "$STATE"
    as_root apt-get update -qq </dev/null >"$STATE/apt.log" 2>&1 || say "apt-get update failed; going on with the package lists at hand"
    APT_UPDATED=1
}

# apt_has PACKAGE: the package sources offer it (virtual packages do not count).
# Not `… | grep -q`: with pipefail, the writer's SIGPIPE would turn a match into a failure.
apt_has() { [[ $(apt-cache policy "$1" 2>/dev/null) == *'Candidate: '[!\(]* ]]; }
