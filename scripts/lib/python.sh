# The interpreter, the virtual environment, what is installed in it. Sourced by bootstrap.

# find_python: a python >= 3.11 that can make a virtual environment, on stdout.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

ensure_python() {
    if find_python >/dev/null; then return; fi
    apt_install "Python 3.11 or newer with venv" python3 python3-venv
    if find_python >/dev/null; then return; fi
    # An older release whose default python is too old may offer a newer one beside it (Ubuntu 22.04 does).
    local version
    for version in 3.13 3.12 3.11; do
        if apt_has "python$version-venv"; then
            apt_install "the default python3 is older than 3.11" "python$version" "python$version-venv"
            if find_python >/dev/null; then return; fi
        fi
    done
    die "no Python 3.11 or newer to be had from this machine's package sources" "install one, then run the same command again"
}

# What the environment must have been made from. The path counts: a moved environment has dead scripts.
venv_wanted() { { cat pyproject.toml requirements.lock; pwd; } | sha256sum | cut -d' ' -f1; }

venv_current() {
    [ -x .venv/bin/massgen ] && [ "$(cat .venv/.stamp 2>/dev/null)" = "$(venv_wanted)" ] && .venv/bin/python -c '' 2>/dev/null
}

# It has a pip, and its programs point here: a folder that was moved or copied has dead ones.
venv_usable() { .venv/bin/python -m pip --version >/dev/null 2>&1 && grep -qsF "$PWD/.venv" .venv/bin/pip; }

make_venv() {
    local python
    python=$(find_python)
    say "python packages: requirements.lock ($(grep -cE '^[A-Za-z0-9]' requirements.lock) packages, pinned and hashed) into .venv"
    rm -f .venv/.stamp
    # New, half-made or moved: from scratch. Otherwise what a developer added stays.
    if ! venv_usable; then "$python" -m venv --clear .venv; fi
    local pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input install -qq)
    "${pip[@]}" --require-hashes -r requirements.lock </dev/null >&2 ||
        die "the python packages could not be installed" "see pip's message above; without a network, point pip at a mirror (PIP_INDEX_URL)"
    # The build tool is in the lock too, so this fetches nothing.
    "${pip[@]}" --no-deps --no-build-isolation --editable . </dev/null >&2
    venv_wanted >.venv/.stamp
}
