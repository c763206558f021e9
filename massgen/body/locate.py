"""Which functions may hold the bug, from what the tests printed: the first half of the small-model strategy.

An exception that passed through the project names its place: the deepest frame that is not a test. A failed
assertion does not; then the names that the failing test uses are looked up among the project's own definitions,
and so are, one level down, the names that those use. This runs in the container because it parses project files,
which an agent may have written.
"""

from __future__ import annotations

import ast
import os
import re
from typing import Any

from massgen.body.pyfile import Function, functions, parse
from massgen.body.result import Refused
from massgen.body.search import SKIP, files_below

FRAME = re.compile(r'^\s*(?:File "(?P<file>[^"\n]+\.py)", line (?P<at>\d+)|(?P<path>[^\s:"]+\.py):(?P<line>\d+):)', re.MULTILINE)
"""Python's own traceback (also unittest's) and pytest's short and long forms."""

FAILURE = re.compile(r"^(?:_{3,} .+ _{3,}|=====+\n(?:FAIL|ERROR): .+)$", re.MULTILINE)
"""Where the report of one failing test begins."""

NAMED = re.compile(r"^(?:_{3,} (?P<pytest>.+?) _{3,}|(?:FAIL|ERROR): (?P<unittest>\S+))", re.MULTILINE)

MAX_FILES = 1500
MAX_FILE_BYTES = 1024 * 1024
MAX_FAILURES = 20
MAX_SUSPECTS = 6

WEIGHT_DEEPEST = 10.0
WEIGHT_FRAME = 2.0
WEIGHT_ON_LINE = 4.0
WEIGHT_IN_TEST = 1.0
WEIGHT_IN_NAME = 3.0
BELOW = 0.3
"""How much of its caller's suspicion a called function inherits."""


class Source:
    """One parsed file of the project."""

    def __init__(self, root: str, path: str) -> None:
        self.path = path
        with open(os.path.join(root, path), "rb") as file:
            data = file.read(MAX_FILE_BYTES)
        self.tree = parse(data, path)
        self.lines = data.count(b"\n") + (not data.endswith(b"\n"))
        self.functions = list(functions(self.tree))

    def around(self, line: int) -> Function | None:
        """The innermost def that contains the line."""
        inner = [function for function in self.functions if function.start <= line <= function.end]
        return inner[-1] if inner else None


class Project:
    """The Python files below a root, parsed when they are first needed."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._sources: dict[str, Source | None] = {}
        self._defined: dict[str, list[tuple[Source, Function]]] | None = None

    def source(self, path: str) -> Source | None:
        """The parsed file; None when it is no Python that we can read."""
        if path not in self._sources:
            try:
                self._sources[path] = Source(self.root, path)
            except (OSError, Refused, RecursionError):
                self._sources[path] = None
        return self._sources[path]

    def inside(self, path: str) -> str:
        """The path relative to the root; empty when it is elsewhere, installed, or not there."""
        real = os.path.realpath(os.path.join(self.root, path))
        relative = os.path.relpath(real, self.root)
        parts = relative.split(os.sep)
        if parts[0] == os.pardir or SKIP.intersection(parts) or "site-packages" in parts or not os.path.isfile(real):
            return ""
        return relative

    def defined(self, name: str) -> list[tuple[Source, Function]]:
        """Functions of the project called so; a class stands for its `__init__`."""
        if self._defined is None:
            self._defined = {}
            for count, path in enumerate(files_below(self.root)):
                relative = os.path.relpath(path, self.root)
                if count > 20 * MAX_FILES or len(self._sources) > MAX_FILES:
                    break
                if not path.endswith(".py") or is_test(relative):
                    continue
                source = self.source(relative)
                if source is None:
                    continue
                for function in source.functions:
                    made = function.name.endswith(".__init__")
                    called = function.name.split(".")[-2] if made else function.node.name
                    self._defined.setdefault(called, []).append((source, function))
        return self._defined.get(name, [])


def is_test(path: str) -> bool:
    """Whether it is test code, which is never repaired."""
    *folders, name = path.split(os.sep)
    by_name = (
        name.startswith("test_")
        or name.endswith("_test.py")
        or name in {"conftest.py", "tests.py", "test.py", "setup.py", "noxfile.py"}
    )
    return by_name or bool({"tests", "test"}.intersection(folders))


class Suspicion:
    """Points per function, in the order in which they were first suspected."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], tuple[Source, Function, str]] = {}
        self.points: dict[tuple[str, str], float] = {}

    def add(self, source: Source, function: Function, points: float, why: str) -> None:
        """More reason to look there."""
        key = (source.path, function.name)
        self.found.setdefault(key, (source, function, why))
        self.points[key] = self.points.get(key, 0.0) + points

    def ranked(self) -> list[tuple[str, str]]:
        """Most suspected first; ties in order of discovery."""
        return sorted(self.points, key=lambda key: -self.points[key])


def locate(output: str, root: str) -> list[dict[str, Any]]:
    """The most suspected functions: path, name, start, end, doc (its docstring's lines or null), file_lines, why."""
    project = Project(root)
    suspicion = Suspicion()
    for report in _reports(output)[:MAX_FAILURES]:
        _weigh(report, project, suspicion)
    for key in suspicion.ranked()[:4]:
        source, function, _ = suspicion.found[key]
        share = BELOW * suspicion.points[key]
        for name in sorted(_names(function.node, calls=True)):
            for below, inner in project.defined(name)[:3]:
                if inner.node is not function.node:
                    suspicion.add(below, inner, share if below is source else share / 2, f"called by {function.name}")
    return [_described(*suspicion.found[key]) for key in suspicion.ranked()[:MAX_SUSPECTS]]


def _described(source: Source, function: Function, why: str) -> dict[str, Any]:
    return {
        "path": source.path,
        "name": function.name,
        "start": function.start,
        "end": function.end,
        "doc": list(function.doc) if function.doc else None,
        "file_lines": source.lines,
        "why": why,
    }


def _reports(output: str) -> list[str]:
    """The output cut where each failing test's report begins; all of it when nothing says so."""
    starts = [match.start() for match in FAILURE.finditer(output)]
    if not starts:
        return [output]
    return [output[start:end] for start, end in zip(starts, [*starts[1:], len(output)])]


def _weigh(report: str, project: Project, suspicion: Suspicion) -> None:
    """One failing test."""
    frames: list[tuple[str, int]] = []
    for match in FRAME.finditer(report):
        path = project.inside(match.group("file") or match.group("path"))
        if path:
            frames.append((path, int(match.group("at") or match.group("line"))))
    code = [frame for frame in frames if not is_test(frame[0])]
    for depth, (path, line) in enumerate(reversed(code)):
        source = project.source(path)
        function = source.around(line) if source else None
        if source and function:
            suspicion.add(source, function, WEIGHT_FRAME if depth else WEIGHT_DEEPEST, f"line {line} is in the traceback")
    if not code:
        for path, line in [frame for frame in frames if is_test(frame[0])][-2:]:
            _weigh_test(report, project, suspicion, (path, line))


def _weigh_test(report: str, project: Project, suspicion: Suspicion, frame: tuple[str, int]) -> None:
    """A failed assertion: who is named on its line, elsewhere in the test, in the test's name."""
    path, line = frame
    source = project.source(path)
    test = source.around(line) if source else None
    if source is None or test is None:
        return
    on_line: set[str] = set()
    for node in ast.walk(test.node):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno) and not hasattr(node, "body"):
            on_line |= _names(node, calls=False)
    named = NAMED.search(report)
    label = (named.group("pytest") or named.group("unittest") or "") if named else test.name
    label = (label + " " + test.name).lower().replace("_", "")
    imported = _imported(source.tree)
    for name in sorted(_names(test.node, calls=False)):
        places = project.defined(name)
        near = [place for place in places if _module(place[0].path) in imported] or places
        plain = name.lower().replace("_", "")
        points = WEIGHT_ON_LINE if name in on_line else WEIGHT_IN_TEST
        if len(plain) > 2 and plain in label:
            points += WEIGHT_IN_NAME * min(1.0, len(plain) / 6)
        for place, function in near[:3]:
            suspicion.add(place, function, points / len(near[:3]), f"used by the failing test {test.name}")


def _names(tree: ast.AST, *, calls: bool) -> set[str]:
    """Last components of what is called, or of everything that is mentioned."""
    found: set[str] = set()
    for node in ast.walk(tree):
        target: ast.AST = node.func if isinstance(node, ast.Call) else node
        if calls and target is node:
            continue
        if isinstance(target, ast.Attribute):
            found.add(target.attr)
        elif isinstance(target, ast.Name):
            found.add(target.id)
    return found


def _imported(tree: ast.Module) -> set[str]:
    """Last components of the modules that a file imports from."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.rsplit(".", 1)[-1] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").rsplit(".", 1)[-1])
            found.update(alias.name for alias in node.names)
    return found


def _module(path: str) -> str:
    """`pkg/util.py` → `util`, `pkg/__init__.py` → `pkg`."""
    folder, name = os.path.split(path)
    return os.path.basename(folder) if name == "__init__.py" else name[:-3]
