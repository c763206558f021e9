"""`massgen doctor` as an ordinary user meets it, with nothing remembered from before."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from sandbox.guarantees import TITLES
from tests.support.account import a_python, as_user

pytestmark = pytest.mark.docker


def test_doctor_is_for_root_only_or_its_report_changes(installed: Path, account: pwd.struct_passwd) -> None:
    """Every guarantee is proven, or not available with what to do about it; programs find each by a stable name."""
    home = installed / "doctor-home"
    home.mkdir()
    os.chown(home, account.pw_uid, account.pw_gid)
    done = as_user(account, home, a_python(account, home), "-m", "massgen", "doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"ok", "findings", "guarantees"}
    assert {key for row in told["findings"] for key in row} == {"name", "state", "detail", "remedy"}
    found = {row["name"]: row for row in told["guarantees"]}
    assert list(found) == list(TITLES)
    optional = {"recursive_ro", "mandatory_access_control", "disk_quota"}
    assert {name for name, row in found.items() if row["state"] != "proven"} <= optional
    assert all(row["remedy"] for row in found.values() if row["state"] == "unavailable")
    (drafts,) = [row["detail"] for row in told["findings"] if row["name"] == "drafts"]
    assert drafts.startswith("overlays of your own projects")
