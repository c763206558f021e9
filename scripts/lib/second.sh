# A second engine beside the installed one. Sourced.
# A root of another release's packages, entered by pivot_root: from a plain chroot the engine cannot unpack images.

SECOND_NAME=${MASSGEN_ENGINE_NAME:-second}
case $SECOND_NAME in *[!a-z0-9-]* | '') die "MASSGEN_ENGINE_NAME=$SECOND_NAME: use small letters, digits and -" ;; esac
SECOND_RUN=/run/massgen-engine-$SECOND_NAME
SECOND_LIB=/var/lib/massgen-engine-$SECOND_NAME
SECOND_HOST=unix://$SECOND_RUN/docker.sock

second_docker() { DOCKER_HOST=$SECOND_HOST timeout "${SECOND_CALL_S:-120}" docker "$@"; }

second_answers() { SECOND_CALL_S=10 second_docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

second_version() { second_docker version --format '{{.Server.Version}}'; }

second_start() {
    engine_answers || die "no engine answers, so there is none to stand beside" "scripts/bootstrap" 125
    second_locked
    if ! second_answers; then
        second_stop # what a killed start left
        second_make_root
        second_run
    fi
    second_bring_image
    say "second engine: $(second_version), DOCKER_HOST=$SECOND_HOST"
}

# One at a time on this machine; the lock is on a folder that exists anyway. Descriptor 9 is closed for whoever outlives us.
second_locked() {
    exec 9</var/lib
    flock -w 300 9 || die "another start or stop of a second engine does not end" "look for it: ps ax | grep second-engine" 125
}

second_make_root() {
    local suite=${MASSGEN_ENGINE_SUITE:-} major sources options=()
    if [ -z "$suite" ]; then
        major=$(docker version --format '{{.Server.Version}}' | cut -d. -f1)
        if [ "$major" -ge 25 ]; then suite=bookworm; else suite=trixie; fi
    fi
    command -v mmdebstrap >/dev/null || apt_install "to make a root for the second engine" mmdebstrap
    apt_update
    sources=$(second_sources "$suite")
    proxy_option options
    say "making a root with the Docker of Debian $suite (half a minute)"
    as_root mkdir -p "$SECOND_LIB/root" "$SECOND_LIB/data"
    # Unpacked only: no package of it is ever configured, no program of it but the engine's ever runs.
    if ! printf '%s\n' "$sources" | as_root mmdebstrap --quiet --variant=extract --include=base-files,docker.io,mount "${options[@]}" \
        --dpkgopt='path-exclude=/usr/share/*' "$suite" "$SECOND_LIB/root" - >&2; then
        second_stop
        die "mmdebstrap could not make a root of Debian $suite" "see its message above; does this machine's mirror have that release?" 125
    fi
}

# The release's entries, at this machine's own mirrors. Ubuntu's have no Debian.
second_sources() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    if [ -n "$(release_sources "$(release)" Debian)" ]; then
        release_sources "$(release)" Debian "$1"
        return
    fi
    [ -e "$keyring" ] || apt_install "to check Debian's packages" debian-archive-keyring
    printf 'deb [signed-by=%s] http://deb.debian.org/debian %s main\n' "$keyring" "$1"
}

second_run() {
    local log=$SECOND_LIB/dockerd.log
    as_root mkdir -p "$SECOND_RUN"
    # The data of an engine cannot lie on an overlay (a machine that is itself a container); memory can hold it.
    if [ "$(stat -f -c %T "$SECOND_LIB")" = overlayfs ]; then set -- --in-memory; else set --; fi
    # shellcheck disable=SC2016 # expanded by the inner shell, as root
    as_root bash -c '
        log=$1 run=$2; shift 2
        setsid nohup unshare --mount --net --pid --fork --kill-child bash "$@" </dev/null >"$log" 2>&1 9>&- &
        echo $! >"$run/pid"
    ' second "$log" "$SECOND_RUN" "$ROOT/scripts/lib/second-inside.sh" "$SECOND_LIB" "$SECOND_RUN" "$(id -g)" "${1:-}" \
        "$ROOT" "${TMPDIR:-/tmp}" "${XDG_CACHE_HOME:-$HOME/.cache}" "${XDG_STATE_HOME:-$HOME/.local/state}"
    local deadline=$((SECONDS + 60))
    until second_answers; do
        if [ "$SECONDS" -ge "$deadline" ] || ! second_pid >/dev/null; then
            tail -n 5 "$log" >&2
            second_stop
            die "the second engine did not come up" "its last words are above" 125
        fi
        sleep 0.2
    done
}

second_bring_image() {
    local id
    id=$(image_id massgen-agent:latest) || die "the installed engine has no agent image to hand on" "scripts/bootstrap" 125
    if [ "$(second_docker image inspect --format '{{.Id}}' massgen-agent:latest 2>/dev/null)" = "$id" ]; then return; fi
    docker save massgen-agent:latest | SECOND_CALL_S=300 second_docker load >/dev/null ||
        die "the agent image could not be handed to the second engine" "see the message above" 125
}

# The process that holds the namespaces, if it is still that one.
second_pid() {
    local pid
    pid=$(cat "$SECOND_RUN/pid" 2>/dev/null) || return 1
    grep -qsF "$SECOND_LIB" "/proc/$pid/cmdline" && printf '%s\n' "$pid"
}

second_stop() {
    local pid containers deadline=$((SECONDS + 10))
    # Its containers first, by the engine, which then takes their control groups away; the rest dies with its namespaces.
    if containers=$(SECOND_CALL_S=10 second_docker ps -aq 2>/dev/null) && [ -n "$containers" ]; then
        # shellcheck disable=SC2086 # one word each
        SECOND_CALL_S=60 second_docker rm -f $containers >/dev/null 2>&1 || true
    fi
    if pid=$(second_pid); then
        as_root kill -KILL "$pid"
        while second_pid >/dev/null && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
    fi
    if ! [ -e "$SECOND_RUN" ] && ! [ -e "$SECOND_LIB" ]; then return; fi
    # Nothing is mounted below them outside of the namespaces; should a start have been killed in the middle, that stays whole.
    as_root rm -rf --one-file-system "$SECOND_RUN" "$SECOND_LIB"
}

second_enter() {
    local pid
    pid=$(second_pid) || die "the second engine is not running" "scripts/second-engine start"
    as_root nsenter --mount --pid --target "$(cat "/proc/$pid/task/$pid/children" | cut -d' ' -f1)" -- "$@"
}
