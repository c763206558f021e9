"""The error tree of the package.

    SandboxError
    ├── SpecError        the caller asked for something that is refused (never retryable)
    ├── EngineError      the container engine is missing, refuses, or died
    │   ├── EngineUnavailable    no engine, or no permission on its socket
    │   ├── ImageMissing         the image is not there and cannot be had
    │   └── StartFailed          the container did not come up (no python3, limits refused)
    ├── SandboxLost      the sandbox died under us: engine, kernel or the guest itself
    │   └── EngineDied           and its engine no longer answers; an EngineError, too
    ├── WireError        the guest broke the protocol; its sandbox is over
    ├── GuestError       the guest refused one operation (missing path, full disk)
    ├── SnapshotError    what came out of a container, or lies in a store, is not a snapshot we accept
    ├── StoreError       the host's own disk did not take a content, or a file of ours (full, read-only, broken)
    └── LeaseError       a lease was used twice, or does not cover what was asked
        └── Drift        a file is no longer what the lease expects; nothing was written

Every message says what happened, to which thing, and what to do next. `fault` says whose move it is:
"caller", "engine", "sandbox" (what runs inside), "user" (the project changed) or "host" (its disk); `retryable` whether
the same call may succeed later without anybody changing anything.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Fault = Literal["caller", "engine", "sandbox", "user", "host"]


class SandboxError(Exception):
    """Base of everything this package raises on purpose."""

    fault: ClassVar[Fault] = "engine"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, op: str = "") -> None:
        super().__init__(message)
        self.op = op
        """The operation that failed, as the caller named it (`run`, `snapshot`, …)."""


class SpecError(SandboxError):
    """The request itself is refused; nothing was started."""

    fault = "caller"


class EngineError(SandboxError):
    """The container engine failed."""


class EngineUnavailable(EngineError):
    """No engine answers, or its socket refuses us."""


class ImageMissing(EngineError):
    """The image is not present."""

    fault = "caller"


class StartFailed(EngineError):
    """The container was created but its guest never said hello."""


class SandboxLost(SandboxError):
    """The sandbox ended under a running operation. `cause` says of what: engine, or lost when that still answers."""

    fault: ClassVar[Fault] = "engine"
    retryable: ClassVar[bool] = True

    def __init__(self, message: str, *, op: str = "", cause: Literal["lost", "engine"] = "lost") -> None:
        super().__init__(message, op=op)
        self.cause: Literal["lost", "engine"] = cause


class EngineDied(SandboxLost, EngineError):
    """A sandbox ended, and its container engine no longer answers: it died, hangs, or is being restarted."""

    def __init__(self, message: str, *, op: str = "") -> None:
        super().__init__(message, op=op, cause="engine")


class GuestError(SandboxError):
    """The guest refused or could not do one operation; the sandbox goes on."""

    fault = "sandbox"


class SnapshotError(SandboxError):
    """What the container sent is not acceptable as a snapshot."""

    fault = "sandbox"


class StoreError(SandboxError):
    """The host could not keep a content or a manifest; nothing of it is left on the disk."""

    fault: ClassVar[Fault] = "host"


class LeaseError(SandboxError):
    """A lease was reused or does not cover the request."""

    fault: ClassVar[Fault] = "caller"


class Drift(LeaseError):
    """Files changed since they were seen; nothing was written. `paths` names them."""

    fault: ClassVar[Fault] = "user"

    def __init__(self, message: str, *, paths: tuple[str, ...]) -> None:
        super().__init__(message, op="apply")
        self.paths = paths


class WireError(SandboxError):
    """The guest did not keep to the protocol; its sandbox is over."""

    fault = "sandbox"
