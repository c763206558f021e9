"""Run programs that nobody trusts, in a container, at the speed of a local process. Not one word about models.

    async with Sandbox.open(SandboxSpec(image="massgen-agent"), engine=await DockerEngine.connect()) as box:
        outcome = await box.run(["python3", "-c", "print(6 * 7)"])

A sandbox has no network, no capability and no credential; it sees read-only mounts and private drafts, and only a `Lease`
can make a path of the host writable. Public, too, and imported by who needs them: `execute` (one command over throw-away drafts),
`base` and `patch` (what changed against the project, and as text), `prepare` (an image with dependencies), `probe` (proof of the
walls), `testing` (`FakeEngine`: the same guest without a container). docs/sandbox.md shows them at work.
"""

from typing import TYPE_CHECKING

from sandbox.box import Sandbox
from sandbox.engines.base import Engine, EngineFacts, ImageFacts, Link
from sandbox.errors import (
    Drift,
    EngineDied,
    EngineError,
    EngineUnavailable,
    GuestError,
    ImageMissing,
    LeaseError,
    SandboxError,
    SandboxLost,
    SnapshotError,
    SpecError,
    StartFailed,
    StoreError,
    WireError,
)
from sandbox.facts import cache_folder, state_folder
from sandbox.outcome import Outcome, Output, Reason
from sandbox.ports import Connection
from sandbox.process import Process
from sandbox.snapshot import Entry, Snapshot
from sandbox.spec import AGENT_UID, HOME, PEERS, WORKSPACE, Lease, Limits, Mount, SandboxSpec
from sandbox.store import Store
from sandbox.transaction import Recovered
from sandbox.transfer import Change

if TYPE_CHECKING:
    from sandbox.engines.docker import DockerEngine

__all__ = [
    "AGENT_UID",
    "HOME",
    "PEERS",
    "WORKSPACE",
    "Change",
    "Connection",
    "DockerEngine",
    "Drift",
    "Engine",
    "EngineDied",
    "EngineError",
    "EngineFacts",
    "EngineUnavailable",
    "Entry",
    "GuestError",
    "ImageFacts",
    "ImageMissing",
    "Lease",
    "LeaseError",
    "Limits",
    "Link",
    "Mount",
    "Outcome",
    "Output",
    "Process",
    "Reason",
    "Recovered",
    "Sandbox",
    "SandboxError",
    "SandboxLost",
    "SandboxSpec",
    "Snapshot",
    "SnapshotError",
    "SpecError",
    "StartFailed",
    "Store",
    "StoreError",
    "WireError",
    "cache_folder",
    "state_folder",
]


def __getattr__(name: str) -> object:
    """The Docker SDK takes longer to import than all the rest: only who asks for the engine pays for it."""
    if name == "DockerEngine":
        from sandbox.engines.docker import DockerEngine

        return DockerEngine
    raise AttributeError(name)
