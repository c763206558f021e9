"""The body as one file: `massgen/body`, which keeps its name inside: the same imports work in a clone and there."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from sandbox.zipped import in_cache, zipped

BODY = "/opt/massgen/body.zip"
"""Where the zip is mounted, as in `SandboxSpec(tools={BODY: build_body_zip(cache)})`."""
_START = b"from massgen.body.__main__ import main\n\nraise SystemExit(main())\n"


def build_body_zip(cache: Path) -> Path:
    """The zip in `cache` (made when missing), readable by everybody: another uid runs it. Raises: StoreError."""
    sources = {"massgen/__init__.py": b""}
    for entry in (resources.files("massgen") / "body").iterdir():
        if entry.name.endswith(".py"):
            sources[f"massgen/body/{entry.name}"] = entry.read_bytes()
    with in_cache(cache):
        cache.mkdir(parents=True, exist_ok=True)
    return zipped(cache, "body", _START, sources)
