"""`python -m sandbox run [limits] -- COMMAND …`."""

from __future__ import annotations

import gc
import sys

from sandbox.command import main

USAGE = "usage: python -m sandbox run [options] -- COMMAND …   (python -m sandbox run --help)"


def start(args: list[str]) -> int:
    """The exit code."""
    if args in (["-h"], ["--help"]):
        args = ["run", "--help"]
    if args[:1] != ["run"]:
        sys.stderr.write(USAGE + "\n")
        return 2
    return main(args[1:], prog="python -m sandbox run")


if __name__ == "__main__":
    code = start(sys.argv[1:])
    gc.freeze()  # the interpreter would look for cycles in all that was loaded before it ends: 30 ms
    sys.exit(code)
