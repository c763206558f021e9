"""Which file `--config` means: a path, or an example that comes with massgen, by its name with or without `@examples/`."""

from __future__ import annotations

from pathlib import Path

from massgen.errors import ConfigError

PREFIX = "@examples/"


def config_path(given: str, cwd: Path) -> Path:
    """The file; one of the user's own comes before an example of that name. Raises ConfigError: neither is there."""
    own, name = cwd / Path(given).expanduser(), given.removeprefix(PREFIX)
    if not given.startswith(PREFIX) and own.exists():
        return own
    shipped = {path.name: path for folder in _folders() for path in sorted(folder.glob("*.yaml"))}
    if found := shipped.get(name) or shipped.get(f"{name}.yaml"):
        return found
    names = ", ".join(PREFIX + each.removesuffix(".yaml") for each in shipped)
    raise ConfigError(f"config file {given} does not exist; check the path after --config, or take an example: {names}")


def _folders() -> list[Path]:
    """In a clone examples are at its root, in an installed package within it."""
    package = Path(__file__).resolve().parents[1]
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()][:1]
