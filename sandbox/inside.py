"""What the probe runs inside: a program that tries everything it must not be able to do, and prints what came of it.

It judges nothing: an errno's name, or empty for "it worked". `guarantees.judge` decides, on the host.
"""

PROGRAM = r"""
import ctypes, errno, json, os, platform, socket, sys
ro, draft, files = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
def attempt(work):
    try:
        work()
        return ""
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
def call(x86, arm, *words):
    number = x86 if platform.machine() == "x86_64" else arm
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(w) for w in words]) == -1:
        raise OSError(ctypes.get_errno(), "")
def text(*paths):
    for path in paths:
        try:
            return open(path).read().strip()
        except OSError:
            pass
    return ""
def write(path):
    with open(path, "w") as file:
        file.write("x")
def fill(*paths):
    try:
        for path in paths:
            with open(path, "wb", buffering=0) as file:
                for _ in range(9 // len(paths)):
                    left = memoryview(bytes(1 << 20))
                    while left:
                        left = left[file.write(left):]
    finally:
        for path in paths:
            if os.path.exists(path):
                os.unlink(path)
def many():
    for number in range(files + 8):
        open("/workspace/n%d" % number, "w").close()
def size(path):
    about = os.statvfs(path)
    return about.f_blocks * about.f_frsize
cpu = text("/sys/fs/cgroup/cpu.max") or " ".join(text("/sys/fs/cgroup/cpu/cpu.cfs_%s_us" % n) for n in ("quota", "period"))
status = dict(line.split(":\t") for line in text("/proc/self/status").splitlines() if ":\t" in line)
sockets = [p for p in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock") if os.path.exists(p)]
print(json.dumps({
    "uid": os.getuid(), "kernel": os.uname().release,
    "caps": [status.get(k, "?").strip() for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "nnp": status.get("NoNewPrivs", str(libc.prctl(39, 0, 0, 0, 0))).strip(), "seccomp": status.get("Seccomp", "?").strip(),
    "vsock": attempt(lambda: socket.socket(40, 1).close()),
    "io_uring": attempt(lambda: call(425, 425, 1, 0)),
    "unshare": attempt(lambda: call(272, 97, 0x10000000)),
    "root": attempt(lambda: write("/probe")), "ro": attempt(lambda: write(ro + "/file")),
    "draft": attempt(lambda: write(draft + "/file")),
    "net": attempt(lambda: socket.create_connection(("192.0.2.1", 9), 2)),
    "links": sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else ["lo"],
    "pid1": [attempt(lambda: os.listdir("/proc/1/fd")), attempt(lambda: open("/proc/1/environ").read()),
             attempt(lambda: open("/proc/1/mem"))],
    "mac": text("/proc/self/attr/current").rstrip("\0"),
    "pids_seen": len([p for p in os.listdir("/proc") if p.isdigit()]),
    "sockets": sockets,
    "memory": text("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    "pids": text("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"),
    "cpu": cpu,
    "sizes": [size(p) for p in ("/workspace", "/tmp", os.environ["HOME"])],
    "full": attempt(lambda: fill(*["/workspace/full%d" % n for n in range(9)])),
    "draft_full": attempt(lambda: fill(draft + "/full")),
    "files": attempt(many),
    "env": sorted(os.environ),
    "secret": os.path.exists(draft + "/secret"),
}))
"""
