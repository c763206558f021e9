# The container engine: is there one that answers us, and if not, make it so. Sourced.
# The test is always the *daemon*: a docker client alone, even a new one, says nothing about an engine.

engine_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

socket_refuses() { [ -S /var/run/docker.sock ] && ! [ -w /var/run/docker.sock ]; }

# ensure_engine COMMAND…: COMMAND is how to start the calling script again, should it have to enter the docker group.
ensure_engine() {
    if engine_answers; then return; fi
    if [ -n "${DOCKER_HOST:-}" ]; then
        die "DOCKER_HOST=$DOCKER_HOST does not answer" "start that engine, or unset DOCKER_HOST to use one on this machine" 125
    fi
    if ! socket_refuses; then
        install_engine
        if ! engine_runs; then start_engine; fi
    fi
    if socket_refuses; then join_docker_group "$@"; fi
    engine_answers || die "the container engine runs but does not answer: $(docker version 2>&1 | tail -n 1)" "see \`docker info\`" 125
}

install_engine() {
    local packages=()
    if ! command -v dockerd >/dev/null; then packages+=(docker.io iptables); fi
    if ! command -v docker >/dev/null; then
        # Newer releases ship the client apart from the engine.
        apt_update
        if apt_has docker-cli; then packages+=(docker-cli); elif [ "${#packages[@]}" = 0 ]; then packages+=(docker.io); fi
    fi
    if [ "${#packages[@]}" -gt 0 ]; then apt_install "no container engine answers on this machine" "${packages[@]}"; fi
}

engine_runs() { as_root docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

start_engine() {
    if [ -d /run/systemd/system ]; then
        say "starting the container engine: systemctl enable --now docker"
        as_root systemctl enable --now docker </dev/null >&2 ||
            die "systemd could not start docker" "read \`journalctl -u docker\`" 125
        if wait_for_engine; then return; fi
        die "docker was started by systemd and did not answer within 60 s" "read \`journalctl -u docker\`" 125
    fi

    mkdir -p "$STATE"
    local log=$STATE/dockerd.log
    # Installing the package may have started it already (init scripts do); two would fight over one bridge.
    if ! pidof dockerd >/dev/null; then run_dockerd "$log"; fi
    if wait_for_engine; then return; fi
    # Agents have no network and images are built on the host's: an engine without a bridge does all we need,
    # and starts on kernels that lack what iptables wants.
    if ! pidof dockerd >/dev/null && grep -qiE 'iptables|nf_tables|bridge' "$log"; then
        say "no iptables on this kernel: starting the engine without a bridge network"
        run_dockerd "$log" --iptables=false --ip6tables=false --bridge=none
        if wait_for_engine; then return; fi
    fi
    tail -n 5 "$log" >&2 || true
    die "dockerd did not answer within 60 s" "read $log" 125
}

# run_dockerd LOG OPTION…: in a session of its own, so that it outlives this script and its terminal.
run_dockerd() {
    local log=$1
    shift
    say "starting the container engine: no systemd here, so dockerd in the background (log: $log)"
    : >>"$log"
    # shellcheck disable=SC2016 # expanded by the inner shell, as root
    as_root bash -c '
        log=$1; shift
        mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup || true
        setsid nohup dockerd "$@" </dev/null >>"$log" 2>&1 &
    ' dockerd "$log" "$@"
}

# Up to 60 s; gives up at once when dockerd has ended.
wait_for_engine() {
    local deadline=$((SECONDS + 60))
    while [ "$SECONDS" -lt "$deadline" ]; do
        if engine_runs; then return 0; fi
        sleep 0.5
        if ! pidof dockerd >/dev/null; then return 1; fi
    done
    return 1
}

in_docker_group() { [[ " $(id -nG "$(id -un)") " == *' docker '* ]]; }

# join_docker_group COMMAND…: this login is not in the group yet; the same command is started again inside it.
join_docker_group() {
    local user word again=''
    user=$(id -un)
    if [ -n "${MASSGEN_IN_GROUP:-}" ]; then
        die "the engine's socket still refuses $user inside the group docker" "read \`ls -l /var/run/docker.sock\`" 125
    fi
    if ! in_docker_group; then
        say "adding $user to the group docker (its members can become root through the engine)"
        as_root usermod -aG docker "$user"
    fi
    command -v sg >/dev/null || die "$user is in the group docker from the next login on" "log out and in, then run the same command again"
    for word in "$@"; do again+=$(quoted "$word")' '; done
    # Twice: the first makes docker the *primary* group, which new files would belong to; the second takes the old one back.
    MASSGEN_IN_GROUP=1 exec sg docker -c "exec sg $(quoted "$(id -gn)") -c $(quoted "exec $again")"
}
