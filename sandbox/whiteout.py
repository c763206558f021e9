"""The two words of an overlay layer: nothing is here, and nothing from below shows here."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OPAQUE = "user.overlay.opaque"
_DEVICE = os.makedev(0, 0)


def whiteout(place: Path) -> None:
    """Nothing is here, whatever lies below (any user may make this device since Linux 5.8). Raises OSError."""
    if not os.path.lexists(place):
        os.mknod(place, stat.S_IFCHR | 0o600, _DEVICE)


def opaque(folder: Path) -> None:
    """What lies below this folder of a layer does not show in it. Raises OSError."""
    os.setxattr(folder, OPAQUE, b"y")
