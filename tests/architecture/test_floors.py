"""The shape of the house: who may import whom, what is loaded when, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = sorted(path for package in ("sandbox", "massgen") for path in (ROOT / package).rglob("*.py"))
PRODUCT = [path for path in PRODUCT if "demo_project" not in path.parts]
IN_CONTAINERS = [path for path in PRODUCT if "guest" in path.parts or "body" in path.parts or path.name == "wire.py"]
SDKS = ("anthropic", "docker", "openai", "xllamacpp")
LONGEST_LINES = 400


def name(path: Path) -> str:
    """As a test's id."""
    return str(path.relative_to(ROOT))


def test_an_import_that_climbs_a_floor_is_caught() -> None:
    """Every contract in pyproject.toml holds."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_that_nobody_reads_to_its_end_is_caught() -> None:
    """No product file is over 400 lines."""
    sizes = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PRODUCT}
    assert {path: lines for path, lines in sizes.items() if lines > LONGEST_LINES} == {}


def foreign_imports(path: Path) -> Iterator[str]:
    """Modules that are neither in the standard library nor carried along in the same zip."""
    beside = {file.stem for file in path.parent.iterdir()}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(level=0, module=str(module)):
                modules = [module]
            case _:
                continue
        for module in modules:
            first = module.split(".")[0]
            carried = first in beside or module.startswith(("sandbox.guest", "massgen.body")) or module == "sandbox.wire"
            if first == "sandbox" and isinstance(node, ast.ImportFrom) and module == "sandbox":
                carried = {alias.name for alias in node.names} <= {"wire", "guest"}
            if first not in sys.stdlib_module_names and not carried:
                yield module


@pytest.mark.parametrize("path", IN_CONTAINERS, ids=name)
def test_a_dependency_that_no_image_has_is_caught(path: Path) -> None:
    """What runs inside containers imports the standard library and its own zip, nothing else."""
    assert list(foreign_imports(path)) == []


@pytest.mark.parametrize("path", IN_CONTAINERS, ids=name)
def test_syntax_that_an_old_image_cannot_read_is_caught(path: Path) -> None:
    """What runs inside containers parses as Python 3.9 (ruff, with target py39 there, watches the annotations)."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))


@pytest.mark.parametrize("path", IN_CONTAINERS, ids=name)
def test_a_function_that_alpines_python_lacks_is_caught(path: Path) -> None:
    """Where the C library is musl, `os` knows no extended attributes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.endswith("xattr")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]


@pytest.mark.parametrize("module", ["massgen", "massgen.cli.main"])
def test_an_sdk_that_slows_every_start_is_caught(module: str) -> None:
    """Importing the product loads no SDK: `massgen --help` must not pay for one."""
    code = f"import sys, {module}; print(*sorted(set({SDKS!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
