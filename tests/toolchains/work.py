"""What Python programs ask of a kernel: asyncio with children, process pools, shared memory, loopback, every kind of wait."""

import asyncio
import concurrent.futures
import ctypes
import mmap
import multiprocessing
import multiprocessing.shared_memory
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading


def square(number):
    return number * number


async def talk():
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"ping\n")
    assert await reader.readline() == b"PING\n"
    writer.close()
    server.close()
    child = await asyncio.create_subprocess_exec("sh", "-c", "cat; exit 3", stdin=-1, stdout=-1)
    assert (await child.communicate(b"through")) == (b"through", None)
    assert child.returncode == 3
    loop = asyncio.get_running_loop()
    assert await loop.getaddrinfo("localhost", 80)
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await heard.wait()
    assert await asyncio.to_thread(square, 5) == 25


def main():
    if hasattr(os, "pidfd_open"):
        child = subprocess.Popen(["true"])
        waited = os.pidfd_open(child.pid)
        select.select([waited], [], [], 5)
        signal.pidfd_send_signal(waited, 0)
        assert child.wait() == 0
    asyncio.run(talk())
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(square, range(8)) == [n * n for n in range(8)]
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(square, range(4))) == [0, 1, 4, 9]
    shared = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
    shared.close()
    shared.unlink()
    threads = [threading.Thread(target=square, args=(n,)) for n in range(20)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    with tempfile.TemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
        mmap.mmap(file.fileno(), 4096)[:2] = b"ok"
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.sendfile(os.memfd_create("copy"), file.fileno(), 0, 4096)
    with select.epoll() as poll:
        one, two = socket.socketpair()
        poll.register(two, select.EPOLLIN)
        one.send(b"x")
        assert poll.poll(5)
        one.close()
        two.close()
    assert socket.if_nameindex() == [(1, "lo")]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))
    os.nice(1)
    assert ctypes.CDLL(None).getpid() == os.getpid()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
