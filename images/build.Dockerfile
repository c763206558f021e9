# The default agent image with compilers. BASE is that image, or one imported from mmdebstrap with everything in it.
ARG BASE=massgen-agent:latest
FROM ${BASE}

RUN set -eu; \
    complete() { \
        command -v python3 && command -v git && command -v rg && \
            gcc --version && g++ --version && make --version && cmake --version && pkg-config --version && \
            test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; \
    }; \
    if ! complete >/dev/null 2>&1; then \
        export DEBIAN_FRONTEND=noninteractive; \
        apt-get update; \
        apt-get install -y --no-install-recommends gcc g++ libc6-dev make cmake pkg-config python3-dev; \
        apt-get clean; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt; \
    fi; \
    complete

CMD ["python3"]
LABEL massgen.variant="build"
