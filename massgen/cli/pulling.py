"""A download as people see it: a bar on a terminal, a line for each tenth elsewhere; both on stderr."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn

from massgen.models.download import OnBytes, size_text
from massgen.models.pinned import models_folder
from massgen.models.weights import fetch, fetch_address


def pull_file(what: str, *, sha256: str = "") -> Path:
    """The path of the file, fetched if it is not there. `what` empty: that of `local`. Raises: ConfigError, ModelError."""
    console = Console(stderr=True, highlight=False, emoji=False)
    folder = models_folder(os.environ)

    def say(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    def get(on_bytes: OnBytes) -> Path:
        if what in ("", "local"):
            return fetch(folder, say=say, on_bytes=on_bytes)
        return fetch_address(folder, what, sha256=sha256, say=say, on_bytes=on_bytes)

    if not console.is_terminal:
        return get(_Tenths(console))
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar: list[TaskID] = []

        def on_bytes(have: int, total: int | None) -> None:
            if not bar:
                bar.append(progress.add_task("", total=total, completed=have))
            progress.update(bar[0], completed=have, total=total)

        return get(on_bytes)


class _Tenths:
    """Says each tenth once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = -1

    def __call__(self, have: int, total: int | None) -> None:
        tenth = have * 10 // total if total else have // (100 * 2**20)
        if tenth > self._said:
            self._said = tenth
            of = f" of {size_text(total)}" if total else ""
            self._console.print(f"  {size_text(have)}{of}", style="dim", soft_wrap=True)
