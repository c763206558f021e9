"""A config file is read strictly: what is wrong is named with its line, and nothing is lost silently."""

from __future__ import annotations

import pytest

from massgen.config.source import parse_document
from massgen.errors import ConfigError


def parse(text: str, env: dict[str, str] | None = None):
    return parse_document(text, env if env is not None else {}, name="team.yaml")


def complaint(text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, env)
    return str(caught.value)


def test_a_repeated_key_is_not_silently_the_last_one():
    """Both lines are named."""
    text = complaint("agents: []\nui: {}\nagents: []\n")
    assert text.startswith("team.yaml:3: agents:")
    assert "lines 1 and 3" in text


def test_a_missing_variable_names_its_key_and_line():
    """`${VAR}` that is not set stops the run before anything starts."""
    assert complaint("a:\n  b:\n    - x\n    - ${NOPE}\n").startswith("team.yaml:4: a.b[1]: the variable NOPE is not set")


def test_variables_are_expanded_in_every_string_and_can_be_escaped():
    """In the middle of text, several times; `$${X}` stays `${X}`; shell's own `$X` is left alone."""
    found = parse("a: x${V}y${V}\nb: ['$${V}', $V]\n${V}: key\n", {"V": "1"})
    assert found.data == {"a": "x1y1", "b": ["${V}", "$V"], "${V}": "key"}


def test_a_value_with_a_variable_is_never_read_as_yaml_again():
    """A key that looks like YAML cannot add structure."""
    assert parse("a: ${V}\n", {"V": "{b: c}"}).data == {"a": "{b: c}"}


def test_json_with_tabs_is_a_config_too():
    """PyYAML alone refuses tabs between values."""
    assert parse('{\n\t"a":\t[1, "x\\ty", "\\ud83d\\ude00"]\n}').data == {"a": [1, "x\ty", "\U0001f600"]}


def test_dates_stay_text():
    """A model named like a date is a name."""
    assert parse("a: 2025-05-14\n").data == {"a": "2025-05-14"}


def test_merge_keys_and_anchors_work():
    """What a mapping says itself wins over what it merges."""
    found = parse("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\n")
    assert found.data["use"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("- a\n", "mapping"),
        ("just text", "mapping"),
        ("a: [1\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system [x]\n", "tag"),
        ("a: !!binary aGk=\n", "tag"),
        ("1: a\n", "key must be text"),
        ("[a]: b\n", "key must be text"),
        ("a: &x [*x]\n", "contains itself"),
        ("a: !!int x\n", "not a usable value"),
        ("<<: [1]\n", "takes mappings"),
        ("a: \x00\n", "not valid YAML"),
        ("[" * 5000, "YAML"),
        ("x0: &x0 [1]\n" + "".join(f"x{i}: &x{i} [{','.join([f'*x{i - 1}'] * 8)}]\n" for i in range(1, 9)), "too much"),
    ],
)  # fmt: skip
def test_unusable_files_are_config_errors(text: str, part: str):
    """Never a traceback, never a hang."""
    assert part in complaint(text)


def test_missing_unreadable_and_binary_files_are_told_apart(tmp_path):
    """Each message says which of the three it was."""
    from massgen.config.source import read_document

    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff\xfe")
    for path, part in ((tmp_path / "none.yaml", "does not exist"), (tmp_path, "cannot be read"), (binary, "not UTF-8")):
        with pytest.raises(ConfigError, match=part):
            read_document(path, {})
