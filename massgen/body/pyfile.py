"""A Python file as functions with line ranges: where `ast` says they are, in lines as the tokenizer counts them.

`str.splitlines` also breaks at form feeds and Unicode separators, which Python does not: bytes are split here.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from typing import Union

from massgen.body.result import Refused

Def = Union[ast.FunctionDef, ast.AsyncFunctionDef]

LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


class Function:
    """One def with its place. `start` includes the decorators; lines count from 1, both ends included."""

    def __init__(self, node: Def, name: str) -> None:
        self.node = node
        self.name = name
        """Qualified: `Class.method`, `outer.inner`."""
        self.start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        self.end: int = node.end_lineno or node.lineno

    @property
    def doc(self) -> tuple[int, int] | None:
        """Lines of the docstring, when it has lines of its own."""
        body = self.node.body
        first = body[0]
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)):
            return None
        end = first.end_lineno or first.lineno
        alone = len(body) == 1 or body[1].lineno > end
        return (first.lineno, end) if first.lineno > self.node.lineno and alone else None


def lines_of(data: bytes) -> list[bytes]:
    """Lines with their ends, as the tokenizer counts them."""
    return LINE.findall(data)


def parse(data: bytes, path: str) -> ast.Module:
    """Raises: Refused with line and reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(data, path)
    except (SyntaxError, ValueError) as error:
        msg = f"{path} is not valid Python: {error}. Use edit_file."
        raise Refused(msg) from None


def functions(tree: ast.AST, prefix: str = "") -> Iterator[Function]:
    """Every def, outer ones before what they contain; also those below if, try and with."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = Function(node, prefix + node.name)
            yield function
            yield from functions(node, function.name + ".")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, prefix + node.name + ".")
        elif not isinstance(node, ast.expr):
            yield from functions(node, prefix)


def outermost(tree: ast.AST, prefix: str = "") -> Iterator[Function]:
    """Defs that are not inside another def; methods count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield Function(node, prefix + node.name)
        elif isinstance(node, ast.ClassDef):
            yield from outermost(node, prefix + node.name + ".")
        elif not isinstance(node, ast.expr):
            yield from outermost(node, prefix)
