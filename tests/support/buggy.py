"""A project with one bug, and what its tests print: what the small-model strategy is tried on."""

from __future__ import annotations

from pathlib import Path

FLATTEN = '''"""Lists."""


def flatten(items):
    """Return one flat list."""
    result = []
    for item in items:
        if isinstance(item, list):
            result.append(flatten(item))
        else:
            result.append(item)
    return result


def double(items):
    return [item * 2 for item in items]
'''
TESTS = """from lists import double, flatten


def test_flat():
    assert flatten([1, 2]) == [1, 2]


def test_nested():
    assert flatten([1, [2, [3]]]) == [1, 2, 3]


def test_double():
    assert double([1]) == [2]
"""
PYTEST_SHORT = """F.                                                    [100%]
=================================== FAILURES ===================================
_________________________________ test_nested __________________________________
test_lists.py:9: in test_nested
    assert flatten([1, [2, [3]]]) == [1, 2, 3]
E   assert [1, [2, [3]]] == [1, 2, 3]
=========================== short test summary info ============================
FAILED test_lists.py::test_nested - assert [1, [2, [3]]] == [1, 2, 3]
1 failed, 2 passed in 0.05s
"""
PYTEST_LONG_RAISED = """=================================== FAILURES ===================================
____________________________ TestDouble.test_double ____________________________

    def test_double():
>       assert double([1]) == [2]

test_lists.py:13:
_ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _

lists.py:16: TypeError
=========================== short test summary info ============================
============ 1 failed, 3 passed, 1 skipped, 2 warnings in 61.02s (0:01:01) ============
"""
UNITTEST = """F.
======================================================================
FAIL: test_nested (test_lists.ListsTest.test_nested)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "{root}/test_lists.py", line 9, in test_nested
    self.assertEqual(flatten([1, [2, [3]]]), [1, 2, 3])
AssertionError: Lists differ: [1, [2, [3]]] != [1, 2, 3]

----------------------------------------------------------------------
Ran 5 tests in 0.001s

FAILED (failures=1, errors=1, skipped=1)
"""


def write_project(folder: Path) -> Path:
    """Two functions, one bug, three tests."""
    folder.mkdir()
    (folder / "lists.py").write_text(FLATTEN, encoding="utf-8")
    (folder / "test_lists.py").write_text(TESTS, encoding="utf-8")
    return folder
