"""An ordinary user of this machine who may use the engine, and the product where that user can read it."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.user import ROOT

NAME = f"massgen-test-{os.getpid()}"
SOCKET = Path("/var/run/docker.sock")
SDKS = frozenset({"anthropic", "google-genai", "openai"})
"""Large, and imported only by who has a key."""


def add() -> pwd.struct_passwd:
    """The user. Raises CalledProcessError."""
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", NAME], check=True, capture_output=True)
    return pwd.getpwnam(NAME)


def remove() -> None:
    """The user is gone."""
    subprocess.run(["userdel", NAME], check=False, capture_output=True)


def as_user(
    account: pwd.struct_passwd, home: Path, *argv: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run something as the user, who is in the group of the engine's socket."""
    return subprocess.run(
        argv,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[SOCKET.stat().st_gid],
        env=environment(home) | (env or {}),
        cwd=cwd or home,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def environment(home: Path) -> dict[str, str]:
    """Of a user with the product in the folder `lib` beside the home."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(home.parent / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}


def a_python(account: pwd.struct_passwd, home: Path) -> str:
    """An interpreter of our own version that the user can run; the one of the tests may lie in a closed folder."""
    wanted = sys.version_info[:2]
    for python in (sys.executable, f"/usr/local/bin/python3.{wanted[1]}", f"/usr/bin/python3.{wanted[1]}"):
        try:
            done = as_user(account, home, python, "-c", f"import sys; sys.exit(sys.version_info[:2] != {wanted})")
        except OSError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip(f"no Python {wanted[0]}.{wanted[1]} that another user can read")


def copy_packages(lib: Path) -> None:
    """The product and what it needs, where the user can read it."""
    lib.mkdir()
    skipped = shutil.ignore_patterns("__pycache__")
    for own in ("sandbox", "massgen"):
        shutil.copytree(ROOT / own, lib / own, ignore=skipped)
    for distribution in _needed(["massgen"]):
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
                (lib / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, lib / file)
    subprocess.run(["chmod", "-R", "a+rX", lib], check=True)


def _needed(names: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """What these need, without themselves and the SDKs."""
    found: dict[str, importlib.metadata.Distribution] = {}
    pending = list(names)
    while pending:
        about = importlib.metadata.distribution(pending.pop())
        for text in about.requires or ():
            wanted = Requirement(text)
            if wanted.name in SDKS or wanted.name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
                continue
            found[wanted.name] = importlib.metadata.distribution(wanted.name)
            pending.append(wanted.name)
    return list(found.values())
