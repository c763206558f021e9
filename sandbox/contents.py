"""Contents out of a container into a store, nothing taken that was not asked for or is not what was announced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

from sandbox.beside import Behind, behind
from sandbox.blobs import TOGETHER, Intake
from sandbox.channels import Channel
from sandbox.errors import SnapshotError
from sandbox.guest.holes import Extents, checked
from sandbox.store import Store
from sandbox.wire import Chunk

CHUNK = 256 * 1024
SHORT = 64 * 1024
"""A content up to here is gathered with others for the disk's thread."""


async def received(channel: Channel, store: Store, wanted: Sequence[tuple[str, int]]) -> list[str]:
    """Contents into the store, by hash and size; what does not have the announced ones is refused. Returns the hashes.

    Of a large one no hash need be announced ("").
    Hashing and the disk are a thread's work, while the next bytes arrive. Raises SnapshotError, StoreError.
    """
    kept_as = [sha256 for sha256, _ in wanted]
    with store.intake() as intake:
        async with behind() as disk:
            short: list[tuple[str, list[Chunk]]] = []
            gathered = 0
            for number, (sha256, size) in enumerate(wanted):
                where = _announced(await channel.record(), size)
                if where is None and size <= SHORT:
                    short.append((sha256, [piece async for piece in _pieces(channel, size)]))
                    gathered += size
                    if gathered >= CHUNK or len(short) >= TOGETHER:
                        await disk.do(gathered, partial(intake.whole, short))
                        short, gathered = [], 0
                else:
                    await _long(channel, disk, intake, size, where)
                    await disk.do(0, partial(_judge, intake, kept_as, number))
            await disk.do(gathered, partial(intake.whole, short))
            await disk.do(0, intake.flush)
    return kept_as


def _judge(intake: Intake, kept_as: list[str], number: int) -> None:
    kept_as[number] = intake.end(kept_as[number])


def _announced(said: object, size: int) -> Extents | None:
    match said:
        case {"size": int(announced), **rest} if announced == size:
            try:
                return checked(rest.get("data"), size)
            except ValueError as error:
                raise SnapshotError(f"a container announced a file with {error}") from None
        case other:
            raise SnapshotError(f"a container announced {str(other)[:80]} for a file of {size} bytes")


async def _pieces(channel: Channel, count: int) -> AsyncIterator[Chunk]:
    while count > 0:
        piece = await channel.raw(count)
        count -= len(piece)
        yield piece


async def _long(channel: Channel, disk: Behind, intake: Intake, size: int, where: Extents | None) -> None:
    await disk.do(0, intake.begin)
    for offset, length in [(0, size)] if where is None else where:
        await disk.do(0, partial(intake.skip_to, offset))
        pieces: list[Chunk] = []
        gathered = 0
        async for piece in _pieces(channel, length):
            pieces.append(piece)
            gathered += len(piece)
            if gathered >= CHUNK:
                await disk.do(gathered, partial(intake.write, *pieces))
                pieces, gathered = [], 0
        await disk.do(gathered, partial(intake.write, *pieces))
    await disk.do(0, partial(intake.skip_to, size))
