"""PURE: which names are secret-like, which are caches. Paths are relative and `/`-separated.

Names, not contents, because a name is what a mount can withhold and a rule people can predict. Two kinds
of file are common with and without secrets (`*.pem`, `.npmrc` and their like): for those a name only raises
the question, and `walk.py` looks into the file.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import pairwise

_ENV_EXAMPLES = ("example", "sample", "template", "dist", "defaults")

_FILES = frozenset(
    {
        ".dockercfg",
        ".git-credentials",
        ".htpasswd",
        ".my.cnf",
        ".netrc",
        ".pgpass",
        ".terraformrc",
        ".vault-token",
        "_netrc",
        "application_default_credentials.json",
        "credentials.tfrc.json",
        "id_dsa",
        "id_ecdsa",
        "id_ecdsa_sk",
        "id_ed25519",
        "id_ed25519_sk",
        "id_rsa",
    }
)
_ENDINGS = (".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk")
_FOLDERS = frozenset({".aws", ".azure", ".gcloud", ".gnupg", ".kube", ".ssh"})
_PAIRS = frozenset({(".docker", "config.json"), (".config", "gcloud")})

_ASK_ENDINGS = {".pem": (b"PRIVATE KEY",), ".key": (b"PRIVATE KEY",)}
_ASK_NAMES = {
    ".npmrc": (b"_authtoken", b"_auth", b"_password"),
    ".pypirc": (b"password",),
    ".yarnrc.yml": (b"npmauthtoken", b"npmauthident"),
}
"""Withheld when the file contains one of these (compared without case)."""

_CACHE_FOLDERS = frozenset(
    {"__pycache__", ".hypothesis", ".ipynb_checkpoints", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache", ".tox"}
)
_CACHE_FILES = ("*.pyc", "*.pyo", ".coverage", ".coverage.*", ".DS_Store")
_BUILD = frozenset({".eggs", ".gradle", ".next", ".venv", "build", "dist", "htmlcov", "node_modules", "target", "venv"})
_BUILD_PATTERNS = ("*.egg-info",)


def secret_like(path: str) -> bool:
    """True when the last component of `path` is a secret by its name alone (a file or a whole folder)."""
    parts = path.lower().split("/")
    name = parts[-1]
    if name.startswith(".env"):
        return name.rsplit(".", 1)[-1] not in _ENV_EXAMPLES
    if name in _FILES or name in _FOLDERS or name.endswith(_ENDINGS):
        return True
    return len(parts) > 1 and (parts[-2], name) in _PAIRS


def inside_secret(path: str) -> bool:
    """True when `path` is secret-like, or lies in a folder of credentials."""
    parts = path.lower().split("/")
    if any(p in _FOLDERS for p in parts) or any(pair in _PAIRS for pair in pairwise(parts)):
        return True
    return secret_like(path)


def words_to_look_for(name: str) -> tuple[bytes, ...]:
    """What makes a file of this name a secret when it is in it; empty: its content does not matter."""
    lowered = name.lower()
    ending = lowered[lowered.rfind(".") :] if "." in lowered else ""
    return _ASK_NAMES.get(lowered, ()) or _ASK_ENDINGS.get(ending, ())


def is_cache(path: str) -> bool:
    """True for what tools leave behind by merely running: nobody means it as an answer."""
    parts = path.split("/")
    return any(p in _CACHE_FOLDERS for p in parts) or any(fnmatchcase(parts[-1], p) for p in _CACHE_FILES)


def build_folder(path: str) -> str:
    """The topmost part of `path` that is build output by convention (`node_modules`, `a/dist`); empty when none is."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if part in _BUILD or any(fnmatchcase(part, p) for p in _BUILD_PATTERNS):
            return "/".join(parts[: index + 1])
    return ""
