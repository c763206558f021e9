"""Replace a Python function by name: the one edit that a small model gets right.

The new text is matched to the old function by qualified name, else by a last component that is unique in the file;
its indentation is moved to the old one's, line by line, leaving the inside of multi-line strings alone. Everything
outside the replaced lines stays byte for byte. Decorators stay when the new text has none (a model told to start at
the def line leaves them out). Nothing is written unless the result compiles.
"""

from __future__ import annotations

import io
import re
import tokenize
import warnings

from massgen.body.pyfile import Function, functions, lines_of, outermost, parse
from massgen.body.result import Refused

WRAP = "if 1:\n"


class Block:
    """The new text: its lines, its outermost defs, and which lines begin inside a string."""

    def __init__(self, code: str) -> None:
        code = code.replace("\r\n", "\n").replace("\r", "\n").strip("\n") + "\n"
        first = next((line for line in code.split("\n") if line.strip() and not line.lstrip().startswith("#")), "")
        self.indent = first[: len(first) - len(first.lstrip())]
        # indented code is parsed as the body of an `if`: dedenting text would also move the lines of strings
        text = WRAP + code if self.indent else code
        tree = parse(text.encode("utf-8", "replace"), "the new code")
        self.functions = list(outermost(tree))
        self.lines = text.split("\n")
        self.inside = _lines_inside_strings(text)


class Part:
    """One replacement: these lines of the file give way to that text."""

    def __init__(self, target: Function, start: int, new: bytes) -> None:
        self.target = target
        self.start = start
        self.new = new


def replace_function(data: bytes, code: str, *, path: str, name: str = "", keep_docstring: bool = False) -> tuple[bytes, str]:
    """The file with the function replaced, and what was done in words. Raises: Refused, saying which names there are.

    `keep_docstring`: the old docstring stays whatever the new text has (it was not shown to the model).
    """
    block = Block(code)
    existing = list(functions(parse(data, path)))
    old_lines = lines_of(data)
    matched, unknown = _match(block, existing, name, path)
    parts = [_part(block, new, target, old_lines, keep_docstring=keep_docstring) for new, target in matched]
    parts.sort(key=lambda part: part.start, reverse=True)
    for later, earlier in zip(parts, parts[1:]):
        if earlier.target.end >= later.start:
            msg = f"{later.target.name} lies inside {earlier.target.name}: send only the outer one. Nothing was changed."
            raise Refused(msg)
    for part in parts:
        old_lines[part.start - 1 : part.target.end] = [part.new]
    result = b"".join(old_lines)
    _compile(result, path)
    said = f"replaced {', '.join(sorted(part.target.name for part in parts))} in {path}"
    if unknown:
        said += f"; not in the file and left out: {', '.join(unknown)} (add with edit_file if it is needed)"
    return result, said


def _compile(data: bytes, path: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        msg = f"with the new function {path} does not compile: {error}. Nothing was changed."
        raise Refused(msg) from None


def _match(block: Block, existing: list[Function], name: str, path: str) -> tuple[list[tuple[Function, Function]], list[str]]:
    if not block.functions:
        msg = "the new code contains no function. Send the complete function from its def line to its end."
        raise Refused(msg)
    if name:
        wanted = name.replace("<locals>.", "")
        last = wanted.rsplit(".", 1)[-1]
        new = [f for f in block.functions if f.name == wanted] or [f for f in block.functions if f.node.name == last]
        if len(new) != 1:
            msg = f"the new code must contain {name} exactly once; it contains {', '.join(f.name for f in block.functions)}."
            raise Refused(msg)
        return [(new[0], _find(wanted, existing, path))], []
    matched: list[tuple[Function, Function]] = []
    unknown: list[str] = []
    problem: Refused | None = None
    for function in block.functions:
        try:
            target = _find(function.name, existing, path)
        except Refused as error:
            unknown.append(function.name)
            problem = problem or error
        else:
            if any(target is other for _, other in matched):
                msg = f"{target.name} occurs twice in the new code. Nothing was changed."
                raise Refused(msg)
            matched.append((function, target))
    if problem and not matched:
        raise problem
    return matched, unknown


def _find(name: str, existing: list[Function], path: str) -> Function:
    exact = [function for function in existing if function.name == name]
    last = name.rsplit(".", 1)[-1]
    alike = exact or [function for function in existing if function.node.name == last]
    if len(alike) == 1:
        return alike[0]
    if alike:
        where = ", ".join(f"{function.name} (line {function.start})" for function in alike[:8])
        msg = f"{name} is not unique in {path}: {where}. Pass the qualified name as name, or use edit_file. Nothing was changed."
        raise Refused(msg)
    names = ", ".join(function.name for function in existing[:40]) or "none"
    msg = f"there is no function {name} in {path}. It has: {names}. Nothing was changed."
    raise Refused(msg)


def _part(block: Block, new: Function, target: Function, old: list[bytes], *, keep_docstring: bool) -> Part:
    head = old[target.node.lineno - 1]
    indent = re.match(rb"[ \t\f]*", head)
    want = indent.group().decode() if indent else ""
    end_of_line = b"\r\n" if head.endswith(b"\r\n") else b"\r" if head.endswith(b"\r") else b"\n"
    own = block.lines[new.node.lineno - 1]
    have = own[: len(own) - len(own.lstrip())]
    lines = {
        n: _moved(block.lines[n - 1], have, want, fixed=n in block.inside and not _in(n, new.doc))
        for n in range(new.start, new.end + 1)
    }
    texts = {n: line.encode("utf-8", "replace") + end_of_line for n, line in lines.items()}
    if keep_docstring and target.doc:
        _put_docstring(texts, new, b"".join(old[target.doc[0] - 1 : target.doc[1]]))
    joined = b"".join(texts[n] for n in sorted(texts))
    if not old[target.end - 1].endswith((b"\n", b"\r")):
        joined = joined[: -len(end_of_line)]
    has_decorators = bool(new.node.decorator_list) or not target.node.decorator_list
    return Part(target, target.start if has_decorators else target.node.lineno, joined)


def _put_docstring(texts: dict[int, bytes], new: Function, doc: bytes) -> None:
    if new.doc:
        for number in range(new.doc[0], new.doc[1] + 1):
            texts[number] = b""
        texts[new.doc[0]] = doc
    elif new.node.body[0].lineno > new.node.lineno:
        first = new.node.body[0]
        start = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))])
        texts[start] = doc + texts[start]


def _in(number: int, span: tuple[int, int] | None) -> bool:
    return span is not None and span[0] <= number <= span[1]


def _moved(line: str, have: str, want: str, *, fixed: bool) -> str:
    if fixed or not line.strip():
        return line if fixed else ""
    return want + line[len(have) :] if line.startswith(have) else line


def _lines_inside_strings(text: str) -> set[int]:
    """Numbers of the lines that begin inside a string: their indentation is content."""
    inside: set[int] = set()
    open_at: list[int] = []
    for token in _tokens(text):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            inside.update(range(token.start[0] + 1, token.end[0] + 1))
        elif kind in {"FSTRING_START", "TSTRING_START"}:
            open_at.append(token.start[0])
        elif kind in {"FSTRING_END", "TSTRING_END"} and open_at:
            inside.update(range(open_at.pop() + 1, token.end[0] + 1))
    return inside


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    try:
        return list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        msg = f"the new code cannot be read: {error}. Nothing was changed."
        raise Refused(msg) from None
