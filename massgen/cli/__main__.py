"""`massgen`, `python -m massgen`, and `python -m massgen.cli` as the documents of the peer write it: the outermost frame.

Loading the command line takes a moment, in which Ctrl-C is as likely as in any other; an import that is interrupted must end like
everything else that is, and not with a traceback. So nothing that takes time is imported before the block that sees to that.
"""

import gc


def main() -> None:
    """Run one command and exit with its code."""
    try:
        from massgen.cli.main import main as command
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    try:
        command()
    finally:
        gc.freeze()  # the interpreter would look for cycles in all that was loaded before it ends: 30 ms


if __name__ == "__main__":
    main()
