"""The plan: whatever is asked, only a lease makes anything of the host writable, and only what it names."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from hypothesis import assume, given
from hypothesis import strategies as st

from sandbox.errors import SpecError
from sandbox.plan import GUEST, HostFacts, PathFacts, Plan, plan
from sandbox.spec import HOME, PEERS, WORKSPACE, Lease, Limits, Mount, SandboxSpec

HOME_FOLDER = Path("/home/user")
STATE = HOME_FOLDER / ".local/state/massgen"
PATHS = [
    *(
        "/",
        "/home",
        "/home/user",
        "/home/user/p",
        "/home/user/p/sub",
        "/home/user/p/file",
        "/home/user/q",
        "/srv",
        "/srv/p",
        "/srv/p2",
    ),
    *(
        "/root/p",
        "/etc",
        "/usr/share/x",
        "/tmp",
        "/tmp/p",
        "/workspace",
        "/workspace/x",
        "/home/agent",
        "/peers/x",
        "/home/user/.local",
    ),
    *("/home/user/.local/state/massgen/runs", "relative", "/srv/../etc", "//srv/p", "/home/user/.cache/massgen"),
]
TARGETS = st.sampled_from(
    [
        "",
        "/data",
        "/data/x",
        "/usr",
        "//usr",
        "/usr/",
        "/./usr",
        "/tmp/",
        "/data/../usr",
        "relative",
        "/.sandbox/x",
        "/run",
        "/srv\0",
    ]
)
GOOD = st.sampled_from(["/srv/p", "/srv/p2", "/home/user/q", "/home/user/p", "/home/user/p/sub", "/root/p"]).map(Path)
MASKS = st.lists(
    st.tuples(st.sampled_from([".env", "keys", "keys/id", "sub/keys", ".git", "sub"]), st.sampled_from(["file", "dir"])),
    max_size=3,
)
FACTS = st.builds(
    PathFacts,
    kind=st.sampled_from(["dir"] * 12 + ["file", "missing", "other"]),
    uid=st.sampled_from([0, 1000, 1000]),
    gid=st.just(1000),
    git_folders=st.lists(st.sampled_from([".git", "sub/.git", "sub/deep/.git", "keys/.git"]), unique=True, max_size=3).map(tuple),
    masks=MASKS.map(lambda m: tuple(dict(m).items())),
)
MOUNTS = st.lists(
    st.builds(
        Mount,
        source=GOOD | GOOD | st.sampled_from(PATHS).map(Path),
        mode=st.sampled_from(["ro", "draft"]),
        target=st.just("") | st.just("") | TARGETS,
    ),
    max_size=3,
).map(tuple)
LIMITS = st.builds(
    Limits, memory_bytes=st.sampled_from([64 * 1024**2, 4 * 1024**3]), pids=st.integers(1, 99), tmp_bytes=st.integers(1, 10**9)
)


@st.composite
def worlds(draw: st.DrawFn) -> HostFacts:
    """What a machine may look like."""
    return HostFacts(
        uid=draw(st.sampled_from([0, 1000])),
        gid=1000,
        home=HOME_FOLDER,
        private=(STATE, HOME_FOLDER / ".cache/massgen"),
        paths={Path(p): draw(FACTS) for p in PATHS},
        empty_file=Path("/cache/empty"),
        guest=Path("/cache/guest.zip"),
        accounts=Path("/cache/accounts"),
        image_volumes=draw(st.sampled_from([(), ("/data", "/var/lib/x")])),
    )


def leases(draw: st.DrawFn) -> Lease:
    """Some right to write."""
    likely = st.sampled_from(["/srv/p", "/srv/p2", "/home/user/p", "/root/p"])
    paths = draw(st.lists((likely | likely | st.sampled_from(PATHS)).map(Path), min_size=1, max_size=2, unique=True))
    inner = draw(st.lists(st.sampled_from(["docs", "sub/deep/x", "keys/y"]), max_size=2))
    purpose = draw(st.sampled_from(["apply", "undo", "direct"]))
    protected = tuple(p / i for p in paths for i in inner)
    return Lease.grant(run_id="r", agent="a", snapshot_id="s", purpose=purpose, paths=tuple(paths), protected=protected)


def below(path: str, root: str) -> bool:
    """At or below."""
    return PurePosixPath(path).is_relative_to(root)


def always(decided: Plan, spec: SandboxSpec) -> None:
    """What holds for every plan."""
    targets = [b.target for b in decided.binds] + [t.target for t in decided.tmpfs]
    assert len(targets) == len(set(targets)), "one place, one mount"
    assert {WORKSPACE, HOME, "/tmp", GUEST, "/etc/passwd", "/etc/group"} <= set(targets)
    assert decided.memory_bytes >= spec.limits.memory_bytes + sum(t.size_bytes for t in decided.tmpfs)
    assert all(t.size_bytes > 0 and t.inodes > 0 for t in decided.tmpfs)
    for bind in decided.binds:
        mine = bind.target in (GUEST, PEERS, "/etc/passwd", "/etc/group") or bind.source == "/cache/empty"
        assert mine or not any(
            below(bind.target, r) for r in ("/usr", "/etc", "/proc", "/sys", "/dev", "/run", "/.sandbox", WORKSPACE)
        )
        assert bind.source not in ("/", "/home", str(HOME_FOLDER))
        assert not below(bind.source, str(STATE))
        assert not below(str(STATE), bind.source)
        assert str(PurePosixPath(bind.target)) == bind.target
        assert bind.target not in ("/", "/tmp", "/home", "/root")
    assert json.loads(decided.labels["massgen.mounts"]) == list(decided.mounts)
    order = [b.target for b in decided.binds]
    for i, inner in enumerate(order):
        assert not any(below(outer, inner) for outer in order[:i] if outer != inner), "parents first"


@given(worlds(), MOUNTS, LIMITS)
def test_nothing_of_the_host_is_writable_without_a_lease(facts: HostFacts, mounts: tuple[Mount, ...], limits: Limits) -> None:
    """Every bind is read-only, whatever is mounted where; agents are never root; drafts are memory."""
    spec = SandboxSpec(image="i", mounts=mounts, limits=limits)
    try:
        decided = plan(spec, facts)
    except SpecError:
        return
    assert all(b.read_only for b in decided.binds)
    assert decided.uid != 0
    assert decided.lease is None
    assert {m["mode"] for m in decided.mounts} <= {"ro", "draft"}
    assert len(decided.mounts) == len(mounts)
    assert decided.roots == (WORKSPACE, *(m.inside for m in mounts if m.mode == "draft"))
    for fill in decided.fills:
        assert any(below(fill.root, t.target) and not t.read_only for t in decided.tmpfs)
        assert not any(b.target != fill.root and below(b.target, fill.root) for b in decided.binds)
    always(decided, spec)


@given(worlds(), MOUNTS, LIMITS, st.data())
def test_lease_makes_nothing_else_writable(
    facts: HostFacts, mounts: tuple[Mount, ...], limits: Limits, data: st.DataObject
) -> None:
    """Writable binds are the leased paths and folders inside them; `.git` and protected paths stay read-only, unmovable."""
    lease = data.draw(st.composite(leases)())
    spec = SandboxSpec(image="i", mounts=mounts, limits=limits)
    try:
        decided = plan(spec, facts, lease)
    except SpecError:
        return
    roots = [str(p) for p in lease.paths]
    writable = {b.target: b for b in decided.binds if not b.read_only}
    assert set(roots) <= set(writable)
    for target, bind in writable.items():
        assert bind.source == target, "a leased path appears at its own place only"
        assert any(below(target, r) for r in roots)
    readable = {b.target for b in decided.binds if b.read_only} | {t.target for t in decided.tmpfs if t.read_only}
    for path in lease.paths:
        kept = [path / g for g in facts.paths[path].git_folders] + [p for p in lease.protected if p.is_relative_to(path)]
        hidden = [path / m for m, kind in facts.paths[path].masks if kind == "dir"]
        for place in kept:
            if any(place.is_relative_to(h) for h in hidden):
                continue
            assert str(place) in readable
            for above in place.relative_to(path).parents:
                assert str(path / above) in writable.keys() | readable, "a folder above could be renamed away"
        for name, _ in facts.paths[path].masks:
            assert any(below(str(path / name), r) for r in readable), "a mask is missing or undone"
    always(decided, spec)


@given(worlds(), st.sampled_from(PATHS), MASKS)
def test_withheld_path_is_covered_or_not_there(facts: HostFacts, source: str, masks: list) -> None:
    """Under a read mount every withheld path has a mask at or above it."""
    about = PathFacts(kind="dir", masks=tuple(dict(masks).items()))
    spec = SandboxSpec(image="i", mounts=(Mount(source=Path(source), mode="ro"),))
    facts = HostFacts(**{**vars(facts), "paths": {Path(source): about}})
    try:
        decided = plan(spec, facts)
    except SpecError:
        return
    covers = {b.target for b in decided.binds if b.source == str(facts.empty_file)} | {
        t.target for t in decided.tmpfs if t.read_only
    }
    for name, _ in about.masks:
        assert any(below(f"{source}/{name}", c) for c in covers)


@given(worlds(), MOUNTS)
def test_planning_is_pure(facts: HostFacts, mounts: tuple[Mount, ...]) -> None:
    """The same question has the same answer."""
    spec = SandboxSpec(image="i", mounts=mounts)
    try:
        first = plan(spec, facts)
    except SpecError:
        assume(False)
    assert plan(spec, facts) == first
