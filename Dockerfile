# The default agent image: python3 with pip, git, ripgrep, pytest. Small, and the same file in two worlds:
#
#   BASE from a registry               apt brings the tools during the build
#   BASE imported from mmdebstrap      the tools are in it already; the build needs no network
#
# scripts/lib/image.sh picks the world and passes BASE. No ENTRYPOINT, USER or VOLUME: a sandbox sets what runs and as whom.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

RUN set -eu; \
    complete() { command -v python3 && command -v git && command -v rg && python3 -m pip --version && python3 -c 'import pytest'; }; \
    if ! complete >/dev/null 2>&1; then \
        export DEBIAN_FRONTEND=noninteractive; \
        apt-get update; \
        apt-get install -y --no-install-recommends python3 git ripgrep python3-pip python3-pytest; \
        apt-get clean; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt; \
    fi; \
    complete

CMD ["python3"]
LABEL massgen.variant="python"
