"""PURE: which changes of a result would run by themselves on the user's machine, or cannot be what was asked for.

Source code waits until somebody runs it. These do not: a hook runs at the next commit, a workflow at the next push, a task when
the editor opens the folder, an instruction file when the next assistant reads it. So they are told apart by class, and a class
crosses into the project only when the user has said so. Content is not judged; the name decides, as it does for the tools.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from sandbox import Entry, Snapshot
from sandbox.base import Original, absolute

Class = Literal["hooks", "ci", "shell", "editor", "agents", "deletes", "build", "executable", "links"]
CLASSES: Final[tuple[Class, ...]] = get_args(Class)

UNATTENDED: Final[frozenset[Class]] = frozenset({"hooks", "ci", "shell", "editor", "agents", "deletes"})
"""Never written without consent, in any mode. The others are shown, and asked for only where a person is asked at all."""

WHY: Final[Mapping[Class, str]] = {
    "hooks": "run at your next git command",
    "ci": "run on your build servers, with their secrets",
    "shell": "run when you enter the folder or start a shell or debugger in it",
    "editor": "run or change settings when your editor opens the folder",
    "agents": "are read as instructions by coding assistants",
    "deletes": "remove most of what is there",
    "build": "run when you install, build or test",
    "executable": "become programs that can be started",
    "links": "point elsewhere",
}

STORM_FILES: Final = 20
STORM_SHARE: Final = 0.5

_NAMES: Final[Mapping[Class, str]] = {
    "hooks": """
        .husky/* .githooks/* .pre-commit-config.yaml .pre-commit-config.yml lefthook.* .lefthook.* .gitattributes .gitmodules
        """,
    "ci": """
        .github/workflows/* .github/actions/* .gitlab-ci.yml .gitlab/*.yml .circleci/* azure-pipelines.y*ml .azure-pipelines.y*ml
        jenkinsfile .travis.yml bitbucket-pipelines.yml .drone.y*ml .buildkite/* .woodpecker/* .woodpecker.y*ml appveyor.yml
        .forgejo/* .gitea/* cloudbuild.y*ml .cirrus.yml
        """,
    "shell": """
        .envrc .env .env.* .direnv/* .tool-versions mise.toml .mise.toml .nvmrc .python-version .ruby-version .bashrc .zshrc
        .profile .bash_profile .zshenv .gdbinit .lldbinit .inputrc .screenrc .tmux.conf
        """,
    "editor": """
        .vscode/* .idea/* *.code-workspace .devcontainer/* .devcontainer.json .vimrc .exrc .nvimrc .nvim.lua .dir-locals.el .zed/*
        *.sublime-project
        """,
    "agents": """
        claude.md claude.local.md agents.md gemini.md .claude/* .codex/* .cursor/* .cursorrules .windsurfrules .mcp.json .gemini/*
        .github/copilot-instructions.md .aider* .massgen*
        """,
    "build": """
        .npmrc .yarnrc .yarnrc.yml .pnpmfile.cjs .pnpmfile.js setup.py setup.cfg conftest.py sitecustomize.py usercustomize.py
        *.pth pip.conf tox.ini noxfile.py pytest.ini makefile gnumakefile build.rs .cargo/config .cargo/config.toml
        gradlew gradlew.bat
        gradle/wrapper/* *.gradle *.gradle.kts .mvn/* gemfile .bundle/config rakefile dockerfile* *.dockerfile compose.y*ml
        docker-compose.y*ml *.tf .terraform/* jest.config.* vite.config.* vitest.config.* webpack.config.* rollup.config.*
        babel.config.* next.config.* nuxt.config.* svelte.config.* postcss.config.* tailwind.config.* .eslintrc .eslintrc.*
        eslint.config.* .prettierrc.* .babelrc .babelrc.* .pylintrc cmakelists.txt configure configure.ac meson.build justfile
        taskfile.y*ml
        """,
}
"""Globs of the names that tools look for, in lower case; each at any depth."""
_PATTERNS: Final = tuple(
    (kind, re.compile("|".join(rf"(?:.*/)?{fnmatch.translate(glob)}" for glob in globs.split())))
    for kind, globs in _NAMES.items()
)
_MANIFEST: Final = re.compile(r"(?:.*/)?(package\.json|pyproject\.toml|composer\.json)\Z")


@dataclass(frozen=True, kw_only=True)
class Risk:
    """Changes of one class."""

    kind: Class
    paths: tuple[str, ...]
    """Absolute."""

    @property
    def why(self) -> str:
        """What the class does, as the end of a sentence."""
        return WHY[self.kind]


def classify(
    snapshot: Snapshot,
    *,
    original: Callable[[str, str], Original],
    content: Callable[[str], bytes],
    files: Callable[[], int],
) -> tuple[Risk, ...]:
    """The classes that a snapshot touches, in the order of `CLASSES`.

    `files` counts what the write paths hold now; it is asked only when removals are many.
    """
    found: dict[Class, list[str]] = {}
    for entry in snapshot.entries:
        if entry.kind == "dir":
            continue
        for kind in _classes(entry, original(entry.root, entry.path), content):
            found.setdefault(kind, []).append(absolute(entry.root, entry.path))
    if bare := _bare_repositories(snapshot):
        found.setdefault("hooks", []).extend(bare)
    gone = [absolute(e.root, e.path) for e in snapshot.entries if e.kind == "gone"]
    if len(gone) > STORM_FILES and len(gone) > STORM_SHARE * files():
        found["deletes"] = gone
    return tuple(Risk(kind=kind, paths=tuple(found[kind])) for kind in CLASSES if kind in found)


def _bare_repositories(snapshot: Snapshot) -> list[str]:
    """Folders that git would take for a repository with a configuration of its own, without any `.git` in their names."""
    present = {(e.root, e.path) for e in snapshot.entries if e.kind != "gone"}
    folders = {(root, path.rpartition("/")[0]) for root, path in present if path.rpartition("/")[2] == "HEAD"}
    inner = {(root, above) for root, path in present for above in _above(path)}
    return [
        absolute(root, f"{folder}/HEAD".lstrip("/"))
        for root, folder in sorted(folders)
        if all((root, f"{folder}/{name}".lstrip("/")) in present | inner for name in ("objects", "refs"))
    ]


def _above(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def needing_consent(risks: Iterable[Risk], allowed: Iterable[str]) -> tuple[Risk, ...]:
    """Those that nobody may write yet."""
    return tuple(risk for risk in risks if risk.kind in UNATTENDED - set(allowed))


def _classes(entry: Entry, before: Original, content: Callable[[str], bytes]) -> list[Class]:
    name = entry.path.casefold() or entry.root.casefold().rpartition("/")[2]
    if entry.kind == "gone":
        return []  # what is removed runs no more; too much of it is a class of its own
    kinds: list[Class] = [kind for kind, pattern in _PATTERNS if pattern.match(name)][:1]
    if _MANIFEST.match(name) and _scripts(entry, content) != _scripts_before(before, content):
        kinds.append("build")
    if entry.kind == "link" and (before.kind, before.target) != ("link", entry.target):
        kinds.append("links")
    if entry.kind == "file" and entry.mode & 0o111 and not (before.kind == "file" and before.mode & 0o111):
        kinds.append("executable")
    return kinds


def _scripts(entry: Entry, content: Callable[[str], bytes]) -> object:
    return _commands(content(entry.sha256)) if entry.kind == "file" else None


def _scripts_before(before: Original, content: Callable[[str], bytes]) -> object:
    return _commands(content(before.sha256)) if before.kind == "file" else None


def _commands(raw: bytes) -> object:
    """What of a manifest is run by others; of one that is not JSON, all of it."""
    try:
        manifest = json.loads(raw)
        return {key: manifest.get(key) for key in ("scripts", "bin", "workspaces", "packageManager")}
    except (ValueError, AttributeError, RecursionError):
        return raw
