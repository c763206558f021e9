"""The body as one file: a zip of `massgen/body`, the same bytes for the same sources, named by its content.

A content name means that a running container never sees its body change under an upgrade, and that concurrent runs
may build it at the same time: both write the same bytes, and the last rename wins.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from importlib import resources
from pathlib import Path

from sandbox import scratch

BODY = "/opt/massgen/body.zip"
"""Where the zip is mounted, as in `SandboxSpec(tools={BODY: build_body_zip(cache)})`."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_START = "from massgen.body.__main__ import main\n\nraise SystemExit(main())\n"


def build_body_zip(cache: Path) -> Path:
    """The zip in `cache` (made when missing), readable by everybody: another uid runs it. Raises: OSError."""
    data = _zipped()
    path = cache / f"body-{hashlib.sha256(data).hexdigest()[:16]}.zip"
    if path.is_file() and path.stat().st_size == len(data):
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with scratch.replacing(path) as staged:
        staged.write_bytes(data)
        staged.chmod(0o444)
    return path


def _zipped() -> bytes:
    """The package keeps its name inside, beneath an empty `massgen`: the same imports work in a clone and in the zip."""
    sources = {"__main__.py": _START.encode(), "massgen/__init__.py": b""}
    for entry in (resources.files("massgen") / "body").iterdir():
        if entry.name.endswith(".py"):
            sources[f"massgen/body/{entry.name}"] = entry.read_bytes()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), sources[name])
    return out.getvalue()
