# The agent images: built once per Dockerfile, from a registry's base or from one made of this machine's packages. Sourced, by
# scripts/bootstrap and by `massgen images build`; the wheel ships it, with common.sh, below massgen/scripts.

VARIANTS=(python node build)

variant_file() { if [ "$1" = python ]; then printf '%s\n' "$ROOT/Dockerfile"; else printf '%s\n' "$ROOT/images/$1.Dockerfile"; fi; }

# What the Dockerfile wants to find, where no registry and no package source can be reached while it is built.
variant_packages() {
    printf 'python3,git,ripgrep,python3-pip,python3-pytest'
    case $1 in
        node) printf ',nodejs,npm' ;;
        build) printf ',gcc,g++,libc6-dev,make,cmake,pkg-config,python3-dev' ;;
    esac
}

# image_tag [VARIANT]: changes with whatever the image is made from.
image_tag() {
    local variant=${1:-python}
    if [ "$variant" = python ]; then
        printf 'massgen-agent:%s\n' "$({ cat "$(variant_file python)"; printf '%s' "${MASSGEN_BASE:-}"; } | sha256sum | cut -c1-12)"
    else
        printf 'massgen-agent:%s-%s\n' "$variant" "$({ cat "$(variant_file "$variant")"; image_tag; } | sha256sum | cut -c1-12)"
    fi
}

# image_name [VARIANT]: what a config names.
image_name() { if [ "${1:-python}" = python ]; then echo massgen-agent:latest; else echo "massgen-agent:$1"; fi; }

image_id() { docker image inspect --format '{{.Id}}' "$1" 2>/dev/null; }

image_current() { local id; id=$(image_id "$(image_tag)") && [ "$id" = "$(image_id massgen-agent:latest)" ]; }

# ensure_image [VARIANT] [NAME]
ensure_image() {
    local variant=${1:-python} tag
    tag=$(image_tag "$variant")
    ensure_built "$variant" "$tag"
    docker tag "$tag" "${2:-$(image_name "$variant")}"
}

# ensure_built VARIANT TAG: one build of a tag at a time; who waited finds it done. A subshell, so that the lock ends with it.
ensure_built() {
    if image_id "$2" >/dev/null; then return; fi
    mkdir -p "$STATE"
    (
        flock -n 8 || { say "waiting for another build of $2"; flock 8; }
        if ! image_id "$2" >/dev/null; then build_image "$1" "$2"; fi
    ) 8>"$STATE/image-${2##*:}.lock"
}

build_image() {
    local variant=$1 tag=$2 base
    say "agent image $tag: Debian or Ubuntu with $(variant_packages "$variant")"
    if [ "$variant" != python ]; then
        base=$(image_tag)
        ensure_built python "$base"
    elif [ -n "${MASSGEN_BASE:-}" ]; then
        run_build "$variant" "$tag" "$MASSGEN_BASE" || die "the agent image could not be built on $MASSGEN_BASE" "see the message above" 125
        return
    else
        base=debian:bookworm-slim
    fi
    if image_id "$base" >/dev/null || pull "$base"; then
        if run_build "$variant" "$tag" "$base"; then return; fi
        say "building on $base failed; making the base from this machine's packages instead"
    else
        say "no registry answers; making the base from this machine's packages instead"
    fi
    build_without_registry "$variant" "$tag"
}

build_without_registry() {
    local base=massgen-base:${2##*:} built=yes
    import_base "$base" "$(variant_packages "$1")"
    run_build "$1" "$2" "$base" || built=no
    docker image rm "$base" >/dev/null # the name only: its layer is in the agent image
    if [ "$built" = no ]; then die "the agent image could not be built" "see the message above" 125; fi
}

# pull IMAGE: 15 s for the registry to answer at all, then 5 minutes for the download.
pull() {
    local out pid deadline=$((SECONDS + 15))
    out=$(mktemp)
    timeout 300 docker pull "$1" >"$out" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && ! grep -q 'Pulling from' "$out"; do
        if [ "$SECONDS" -ge "$deadline" ]; then kill "$pid" 2>/dev/null || true; fi
        sleep 0.2
    done
    rm -f "$out"
    wait "$pid"
}

# The Dockerfile alone is the context. Nothing of this machine (CAs, proxies, sources) can get in by accident;
# proxy variables are the engine's predefined build arguments, which no layer keeps.
# run_build VARIANT TAG BASE
run_build() {
    local name args=()
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        if [ -n "${!name:-}" ]; then args+=(--build-arg "$name"); fi
    done
    say "building $2 on $3"
    local log
    log=$(mktemp)
    # The classic builder is in every engine; the newer one needs a plugin that Debian does not install.
    if DOCKER_BUILDKIT=0 docker build --force-rm --network host --build-arg "BASE=$3" "${args[@]}" \
        --label "massgen.base=$3" --tag "$2" - <"$(variant_file "$1")" >"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    tail -n 20 "$log" >&2
    rm -f "$log"
    return 1
}

# import_base NAME PACKAGES: a small root of this machine's own release, from its own package sources, tools included.
import_base() {
    command -v mmdebstrap >/dev/null || apt_install "to make the agent image without a registry" mmdebstrap
    apt_update
    local suite sources
    suite=$(release)
    sources=$(release_sources "$suite")
    local options=(--quiet --variant=minbase --include="$2"
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright'
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*'
        --dpkgopt='path-exclude=/usr/share/info/*')
    proxy_option options
    # What belongs to this machine (its mirror, proxy, name, resolver) stays here.
    # shellcheck disable=SC2016 # $1 is the hook's
    options+=(--customize-hook='rm -rf "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/hostname "$1"/etc/resolv.conf'
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/* "$1"/var/log/*'
        --customize-hook="printf '%s\n' '$(public_source "$suite")' >\"\$1\"/etc/apt/sources.list")
    say "making a base of $suite with mmdebstrap (about a minute)"
    # The last `-` reads the sources from stdin; without any, mmdebstrap knows the release's own mirror.
    local mirror=()
    if [ -n "$sources" ]; then mirror=(-); fi
    if ! printf '%s\n' "$sources" | as_root mmdebstrap "${options[@]}" "$suite" - "${mirror[@]}" | docker import - "$1" >/dev/null; then
        docker image rm "$1" >/dev/null 2>&1 || true # half a root is imported as readily as a whole one
        die "mmdebstrap could not make the base image" "see its message above; or give an image: MASSGEN_BASE=… scripts/bootstrap" 125
    fi
}

# proxy_option ARRAY: apt's own proxy, if it has one, as an option of mmdebstrap.
proxy_option() {
    local -n to=$1
    local proxy
    proxy=$(apt-config dump --format '%v' Acquire::http::Proxy 2>/dev/null || true)
    if [ -n "$proxy" ]; then to+=(--aptopt="Acquire::http::Proxy \"$proxy\""); fi
}

os_field() { (. /etc/os-release 2>/dev/null && eval "printf '%s' \"\${$1:-}\""); }

# The release's codename; a derivative counts as the Ubuntu it is made from.
release() {
    local name
    name=$(os_field UBUNTU_CODENAME)
    if [ -z "$name" ]; then name=$(os_field VERSION_CODENAME); fi
    printf '%s\n' "${name:-bookworm}"
}

# release_sources SUITE [ORIGIN] [OTHER]: the distribution's own entries among this machine's package sources; third-party ones
# have no say in the image. With OTHER, the same mirrors' entries for that suite.
release_sources() {
    # shellcheck disable=SC2016 # apt's placeholders
    apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        sort -u | while IFS='|' read -r origin uri suite component; do
        case $origin in
            Debian) keyring=/usr/share/keyrings/debian-archive-keyring.gpg ;;
            Ubuntu) keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg ;;
            *) continue ;;
        esac
        case $suite in "$1"*) ;; *) continue ;; esac
        if [ -n "${2:-}" ] && [ "$origin" != "$2" ]; then continue; fi
        suite=${3:-$1}${suite#"$1"}
        if [ -e "$keyring" ]; then keyring="[signed-by=$keyring] "; else keyring=''; fi
        printf 'deb %s%s %s %s\n' "$keyring" "$uri" "$suite" "$component"
    done
}

# The sources that the image keeps: without the security ones, what it has is newer than what it can install.
public_source() {
    case "$(os_field ID) $(os_field ID_LIKE)" in
        *ubuntu*) printf 'deb http://archive.ubuntu.com/ubuntu %s main universe\n' "$1" "$1-updates" "$1-security" ;;
        *)
            printf 'deb http://deb.debian.org/debian %s main\n' "$1" "$1-updates"
            printf 'deb http://deb.debian.org/debian-security %s-security main\n' "$1"
            ;;
    esac
}
