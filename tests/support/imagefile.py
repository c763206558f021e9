"""An image from a Dockerfile and one layer, on an engine that may have no BuildKit."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile


def built(tag: str, dockerfile: bytes, layer: bytes) -> str:
    """Returns the tag. The Dockerfile finds the layer as `layer.tar`."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in (("Dockerfile", dockerfile), ("layer.tar", layer)):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    command = ["docker", "build", "--quiet", "--force-rm", "--network", "none", "--tag", tag, "-"]
    classic = os.environ | {"DOCKER_BUILDKIT": "0"}
    subprocess.run(command, input=context.getvalue(), capture_output=True, check=True, env=classic, timeout=60)
    return tag
