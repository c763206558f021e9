"""What tests start: nothing of it may outlive a test that is cut off in the middle, as one is that hangs."""

from __future__ import annotations

import os
import select
import subprocess
import sys

from tests.support.user import BOUND, ROOT

CUT_OFF = """
import os, subprocess
from tests.support.user import BOUND
subprocess.Popen([*BOUND, "sh", "-c", "echo $$; exec sleep 600"], start_new_session=True)
input()
os._exit(1)
"""


def test_a_command_that_outlives_its_test_is_caught() -> None:
    """No teardown runs, no process group is shared: it is gone all the same."""
    with subprocess.Popen(
        [*BOUND, sys.executable, "-c", CUT_OFF], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as test:
        assert test.stdin is not None
        assert test.stdout is not None
        child = os.pidfd_open(int(test.stdout.readline()))
        try:
            assert select.select([child], [], [], 0)[0] == []
            test.stdin.write("\n")
            test.stdin.flush()
            assert select.select([child], [], [], 60)[0] == [child]
        finally:
            os.close(child)
    assert test.returncode == 1
