"""A repository of one commit for each copy of a project, which comes without `.git`: `git status` and `git diff` work in it.

It is made inside, of what is visible there, so nothing withheld can be in it. Sending the project's own along, the obvious way,
would fill the memory of the copy with its whole history; an overlay shows that without a copy (`gitmask.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.box import Sandbox
from sandbox.gitmask import ONE_COMMIT, is_repository
from sandbox.spec import MIB

COMMIT_S = 10.0
MAX_BYTES = 64 * MIB
"""Of files; more would take more than a moment, and as much memory again."""
_COMMIT = f"""
set -e
test "$(du -sk . | cut -f1)" -le {MAX_BYTES // 1024}
git init -q --template= --initial-branch=main
git config user.name agent
git config user.email agent@sandbox.invalid
git add -A
git commit -q --allow-empty -m "{ONE_COMMIT}"
"""


async def committed(box: Sandbox) -> tuple[Mapping[str, str], ...]:
    """What the sandbox shows, its copies of repositories committed where that is done in a moment: then they say `git: fresh`.

    To be called before anything else works in there.
    """
    return tuple([await _with_repository(box, mount) for mount in box.mounts])


async def _with_repository(box: Sandbox, mount: Mapping[str, str]) -> Mapping[str, str]:
    source = next((m.source for m in box.spec.mounts if m.inside == mount["path"]), None)
    if mount.get("draft") != "copy" or source is None or not is_repository(source):
        return mount
    if (await box.run(["sh", "-c", _COMMIT], cwd=mount["path"], timeout_s=COMMIT_S)).ok:
        return {**mount, "git": "fresh"}
    await box.run(["rm", "-rf", ".git"], cwd=mount["path"])
    return mount
