"""Replacing one Python function: the rest of the file stays, the function becomes what was sent."""

from __future__ import annotations

import ast
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massgen.body.pyedit import replace_function
from massgen.body.result import Refused

FILE = b'''"""Module."""
import os


class A:
    @property
    def size(self):
        """How large."""
        return 1  # one

    def get(self, key):
        return key

    class Inner:
        def get(self): return 0


if os.name == "posix":
    def outer():
        def helper():
            return 2
        return helper()
'''


def replaced(data: bytes, code: str, **more: object) -> str:
    return replace_function(data, textwrap.dedent(code), path="f.py", **more)[0].decode()


def test_a_method_is_found_by_its_last_name_and_keeps_its_decorator() -> None:
    """A block that starts at the def line neither loses @property nor its place in the class."""
    text = replaced(FILE, "def size(self):\n    return 2\n")
    assert "    @property\n    def size(self):\n        return 2\n\n    def get" in text
    assert text.replace("        return 2\n\n    def get", "", 1).count("How large") == 0


def test_new_decorators_replace_the_old_ones() -> None:
    """Sent decorators are meant."""
    assert "    @cached\n    def size(self):\n        return 2\n" in replaced(FILE, "@cached\ndef size(self):\n    return 2\n")
    assert "@property" not in replaced(FILE, "@cached\ndef size(self):\n    return 2\n")


def test_an_ambiguous_name_is_refused_with_the_candidates() -> None:
    """Two `get`: none is touched, both are named; the qualified name decides."""
    with pytest.raises(Refused, match=r"A\.get \(line 11\), A\.Inner\.get \(line 15\)"):
        replaced(FILE, "def get(self):\n    return 5\n")
    assert "        def get(self):\n            return 5\n" in replaced(
        FILE, "def get(self):\n    return 5\n", name="A.Inner.get"
    )
    assert "    def get(self):\n        return 5\n" in replaced(FILE, "class A:\n    def get(self):\n        return 5\n")


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    """A small model invents names; a large one can correct itself from the message."""
    with pytest.raises(Refused, match=r"no function gte in f\.py\. It has: A\.size, A\.get, A\.Inner\.get, outer"):
        replaced(FILE, "def gte(self):\n    return 5\n")
    with pytest.raises(Refused, match="contains no function"):
        replaced(FILE, "x = 1\n")
    with pytest.raises(Refused, match="not valid Python"):
        replaced(FILE, "def size(self:\n")
    with pytest.raises(Refused, match="exactly once"):
        replaced(FILE, "def size(self):\n    pass\n", name="A.get")
    with pytest.raises(Refused, match="occurs twice"):
        replaced(FILE, "def size(self):\n    pass\ndef size(self):\n    pass\n")
    with pytest.raises(Refused, match="inside"):
        replaced(FILE, "def outer():\n    pass\ndef helper():\n    pass\n")


def test_what_is_not_in_the_file_is_said() -> None:
    """A helper that came along is left out and named."""
    _, said = replace_function(FILE, "def helper2():\n    pass\n\ndef outer():\n    pass\n", path="f.py")
    assert "replaced outer" in said
    assert "left out: helper2" in said


def test_the_result_must_compile() -> None:
    """`return` in the right shape but a broken file is not written."""
    with pytest.raises(Refused, match="does not compile"):
        replaced(b"def f():\n    x = 1\n    return x\n", "def f():\n    break\n")


def test_indented_code_with_strings_at_the_margin_keeps_the_strings() -> None:
    """Moving a method must not move the inside of its multi-line strings; its docstring moves along."""
    code = '    def get(self, key):\n        """Doc.\n\n        More.\n        """\n        return f"""\nzero {key}\n  two\n"""\n'
    text = replace_function(FILE, code, path="f.py", name="A.get")[0].decode()
    assert text.count(code) == 1
    moved = replace_function(b"def get(key):\n    pass\n", code, path="f.py")[0].decode()
    assert moved == 'def get(self, key):\n    """Doc.\n\n    More.\n    """\n    return f"""\nzero {key}\n  two\n"""\n'


def test_line_ends_and_the_missing_last_one_stay() -> None:
    """CRLF files stay CRLF; a file without a final newline stays so."""
    data = b"a = 1\r\ndef f():\r\n    return 1"
    assert replace_function(data, "def f():\n    return 2\n", path="f.py")[0] == b"a = 1\r\ndef f():\r\n    return 2"


def test_a_docstring_that_was_not_shown_stays() -> None:
    """With keep_docstring the old one is put in, whether the new code has none or another."""
    data = b'def f(x):\n    """Old.\n\n    >>> f(1)\n    """\n    return x\n'
    want = 'def f(x):\n    """Old.\n\n    >>> f(1)\n    """\n    return x + 1\n'
    assert replaced(data, "def f(x):\n    return x + 1\n", keep_docstring=True) == want
    assert replaced(data, 'def f(x):\n    """New."""\n    return x + 1\n', keep_docstring=True) == want
    assert replaced(data, "def f(x): return x + 1\n", keep_docstring=True) == "def f(x): return x + 1\n"


NAMES = ("alpha", "beta", "gamma", "delta")
BODIES = (
    "return 1",
    'text = """\nat the margin\n    deeper\n"""\n    return text',
    "def inner():\n        return 2\n\n    return inner()",
    "return (1,\n  2)",
    'return "\\f\\x0b"  # \x0c form feed and é',
    "if True:\n\n        pass\n    # a comment\n    return 3",
)


@st.composite
def modules(draw: st.DrawFn) -> tuple[list[str], int]:
    """Pieces of a module, and which piece is to be replaced."""
    pieces: list[str] = []
    for name in draw(st.permutations(NAMES)):
        decorated = draw(st.sampled_from(["", "@staticmethod\n", "@print\n@(\n  str\n)\n"]))
        body = draw(st.sampled_from(BODIES))
        between = draw(st.sampled_from(["", "\n\n", "# note\n", "x = {\n'a': 1}\n", 'y = """\ndef alpha():\n    pass\n"""\n']))
        start = draw(st.sampled_from(["def", "async def"]))
        pieces.append(f"{between}{decorated}{start} {name}(a, *b):\n    {body}\n")
    return pieces, draw(st.integers(0, len(pieces) - 1))


@given(modules(), st.sampled_from(BODIES), st.booleans(), st.booleans())
def test_every_other_function_stays_byte_for_byte(
    module: tuple[list[str], int], body: str, in_class: bool, windows: bool
) -> None:
    """Whatever the module: what lies before and after the function is the same bytes, and the function is the new one."""
    pieces, index = module
    name = next(n.name for n in ast.parse(pieces[index]).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    source = "".join(pieces)
    if in_class:
        source = "class K:\n    z = 0\n" + textwrap.indent(source, "    ", lambda line: bool(line.strip()))
    data = source.replace("\n", "\r\n" if windows else "\n").encode()
    before = {f.name: ast.get_source_segment(source, f) for f in _functions(source)}
    result, _ = replace_function(data, f"def {name}(new):\n    {body}\n", path="f.py")
    after_source = result.decode().replace("\r\n", "\n")
    after = {f.name: ast.get_source_segment(after_source, f) for f in _functions(after_source)}
    assert {key: value for key, value in after.items() if key != name} == {k: v for k, v in before.items() if k != name}
    assert "(new)" in (after[name] or "")
    target = next(f for f in _functions(source) if f.name == name)
    lines, new_lines = data.split(b"\n"), result.split(b"\n")
    assert new_lines[: target.lineno - 1] == lines[: target.lineno - 1]
    rest = lines[target.end_lineno or 0 :]
    assert new_lines[len(new_lines) - len(rest) :] == rest


def _functions(source: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree: ast.AST = ast.parse(source)
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else tree.body
    return [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
