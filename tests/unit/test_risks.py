"""What runs by itself is told from what waits until somebody runs it; the corpus of names is what tools really look for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massgen.cli.run import ALLOW
from massgen.coordination.risks import CLASSES, STORM_FILES, UNATTENDED, WHY, Risk, classify, needing_consent
from sandbox import Entry, Snapshot
from sandbox.base import Original

NEW = Original(kind="absent")


def found(
    *entries: Entry, before: Original = NEW, blobs: dict[str, bytes] | None = None, files: int = 10
) -> dict[str, list[str]]:
    """Class → relative paths."""
    risks = classify(
        Snapshot(entries=entries),
        original=lambda *_: before,
        content=lambda sha: (blobs or {}).get(sha, b""),
        files=lambda: files,
    )
    return {risk.kind: [path.removeprefix("/p/") for path in risk.paths] for risk in risks}


def file(path: str, *, mode: int = 0o644, sha256: str = "x") -> Entry:
    return Entry(root="/p", path=path, kind="file", mode=mode, sha256=sha256)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("hooks", ".husky/pre-commit .pre-commit-config.yaml lefthook.yml .gitattributes sub/.gitattributes .gitmodules"),
        (
            "ci",
            ".github/workflows/x.yml .gitlab-ci.yml .circleci/config.yml Jenkinsfile sub/.github/actions/a/action.yml",
        ),
        ("shell", ".envrc sub/.envrc .env .env.local .tool-versions .bashrc .gdbinit .nvmrc .direnv/bin/x"),
        ("editor", ".vscode/tasks.json .idea/workspace.xml x.code-workspace .devcontainer/devcontainer.json .vimrc .exrc"),
        (
            "agents",
            "CLAUDE.md a/AGENTS.md .cursor/x .claude/settings.json CLAUDE.local.md .mcp.json .github/copilot-instructions.md",
        ),
        (
            "build",
            "setup.py conftest.py a/b/conftest.py Makefile build.rs .cargo/config.toml gradlew Dockerfile x.pth main.tf",
        ),
    ],
)
def test_a_file_that_runs_by_itself_is_told(kind: str, names: str) -> None:
    """Anywhere in the tree, in any spelling of case."""
    for name in names.split():
        assert list(found(file(name))) == [kind], name
        assert list(found(file(name.upper()))) == [kind], name


@pytest.mark.parametrize("name", ["src/main.py", "README.md", "docs/makefile-guide.md", "environment.yml", "test_x.py"])
def test_ordinary_files_are_nobodys_risk(name: str) -> None:
    """Source waits until somebody runs it."""
    assert found(file(name)) == {}


def test_a_package_manifest_counts_only_when_its_commands_change() -> None:
    """A new dependency or version is no command; a script is."""
    old = {"version": "1", "scripts": {"test": "jest"}}
    blobs = {
        "old": json.dumps(old).encode(),
        "version": json.dumps({**old, "version": "2"}).encode(),
        "script": json.dumps({**old, "scripts": {"test": "jest", "postinstall": "curl evil"}}).encode(),
        "list": b"[]",
    }
    before = Original(kind="file", mode=0o644, sha256="old")
    assert found(file("package.json", sha256="version"), before=before, blobs=blobs) == {}
    for changed in ("script", "list"):
        assert found(file("sub/package.json", sha256=changed), before=before, blobs=blobs) == {"build": ["sub/package.json"]}


def test_a_repository_without_a_git_folder_is_told() -> None:
    """Git takes a folder with HEAD, objects and refs for one, and runs what its config names."""
    bare = [file("sub/HEAD"), file("sub/config"), file("sub/objects/pack/x"), Entry(root="/p", path="sub/refs", kind="dir")]
    assert found(*bare) == {"hooks": ["sub/HEAD"]}
    assert found(file("HEAD"), file("objects/x"), file("refs/x")) == {"hooks": ["HEAD"]}
    assert found(*bare[:3]) == {}


def test_new_programs_and_links_are_told() -> None:
    """A mode or a target that was there before is nobody's news."""
    link = Entry(root="/p", path="l", kind="link", target="a")
    assert found(file("tool", mode=0o755), link) == {"executable": ["tool"], "links": ["l"]}
    assert found(file("tool", mode=0o755), before=Original(kind="file", mode=0o755)) == {}
    assert found(link, before=Original(kind="link", target="a")) == {}


def test_a_storm_of_removals_needs_a_word_and_a_few_do_not() -> None:
    """Many files, and most of what is there."""
    gone = [Entry(root="/p", path=f"f{number}", kind="gone") for number in range(STORM_FILES + 1)]
    assert list(found(*gone, files=30)) == ["deletes"]
    assert found(*gone, files=1000) == {}
    assert found(*gone[:5], files=5) == {}


def test_consent_is_per_class() -> None:
    """One class allowed is not another; what people start themselves needs none."""
    risks = [Risk(kind=kind, paths=("/p/x",)) for kind in CLASSES]
    assert {risk.kind for risk in needing_consent(risks, ["ci"])} == UNATTENDED - {"ci"}
    assert set(ALLOW) == UNATTENDED
    assert set(WHY) == set(CLASSES)


@given(st.text(max_size=40), st.sampled_from(["file", "link", "gone"]))
def test_no_name_breaks_the_sorting(path: str, kind: str) -> None:
    """Names come from a hostile container."""
    found(Entry(root="/p", path=path, kind=kind, mode=0o644, target="t"))  # type: ignore[arg-type]
