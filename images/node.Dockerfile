# The default agent image with node and npm. BASE is that image, or one imported from mmdebstrap with everything in it.
ARG BASE=massgen-agent:latest
FROM ${BASE}

RUN set -eu; \
    complete() { command -v python3 && command -v git && command -v rg && node --version && npm --version; }; \
    if ! complete >/dev/null 2>&1; then \
        export DEBIAN_FRONTEND=noninteractive; \
        apt-get update; \
        apt-get install -y --no-install-recommends nodejs npm; \
        apt-get clean; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt; \
    fi; \
    complete

CMD ["python3"]
LABEL massgen.variant="node"
