"""What a plan refuses, and the chain of mounts that keeps a protected path protected."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from sandbox.engines.docker import DockerEngine
from sandbox.errors import SpecError
from sandbox.overlay import View
from sandbox.plan import MAX_MASKS, HostFacts, PathFacts, plan
from sandbox.plan_checks import check_image, check_machine
from sandbox.spec import AGENT_UID, WORKSPACE, Lease, Limits, Mount, SandboxSpec

P = Path("/srv/p")
DIR = PathFacts(kind="dir", uid=1000, gid=1000)


def facts(**paths: PathFacts) -> HostFacts:
    """A machine with these paths; names are given as `srv_p`."""
    return HostFacts(
        uid=1000,
        gid=1000,
        home=Path("/home/user"),
        private=(Path("/home/user/.local/state/massgen"),),
        paths={Path("/" + name.replace("_", "/")): about for name, about in paths.items()},
        empty_file=Path("/cache/empty"),
        guest=Path("/cache/guest.zip"),
        accounts=Path("/cache/accounts"),
    )


def spec(*mounts: Mount, **more: object) -> SandboxSpec:
    """A spec."""
    return SandboxSpec(image="i", mounts=mounts, **more)


def lease(*paths: Path, **more: object) -> Lease:
    """A lease."""
    given = {"run_id": "r", "agent": "a", "snapshot_id": "s", "purpose": "apply", **more}
    return Lease.grant(paths=paths, **given)


def view(top: str, **more: object) -> View:
    """Layers over `P`, as they were prepared for a draft."""
    given = {"folder": Path(top), "mask": Path(top, "mask"), "source": P, "git": "hide", "writable": True, **more}
    return View(**given)


def ro(path: str, target: str = "") -> Mount:
    """A read mount."""
    return Mount(source=Path(path), mode="ro", target=target)


def draft(path: str, target: str = "") -> Mount:
    """A write path."""
    return Mount(source=Path(path), mode="draft", target=target)


@pytest.mark.parametrize("path", ["/", "/home", "/home/user", "/home/user/.local", "/home/user/.local/state/massgen/runs"])
def test_home_and_our_own_folders_are_not_shown(path: str) -> None:
    """Nor anything that holds them."""
    about = HostFacts(**{**vars(facts()), "paths": {Path(path): DIR}})
    for mount in (ro(path, "/data"), draft(path, "/data")):
        with pytest.raises(SpecError, match=r"home folder|overlaps"):
            plan(spec(mount), about)
    with pytest.raises(SpecError):
        plan(spec(), about, lease(Path(path)))


@pytest.mark.parametrize("path", ["srv/p", "/srv/../home/user", "//srv/p"])
def test_path_that_is_not_resolved_is_refused(path: str) -> None:
    """A detour to the home folder is one."""
    about = HostFacts(**{**vars(facts()), "paths": {Path(path): DIR}})
    with pytest.raises(SpecError, match="resolve"):
        plan(spec(ro(path, "/data")), about)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/usr",
        "/usr/local",
        "/etc/ssl",
        "/proc/1",
        "/dev",
        "/run/x",
        "/.sandbox",
        "/workspace",
        "/workspace/x",
        "/peers",
        "/home/agent/x",
        "/tmp",
        *("//usr", "/./usr", "/usr/", "/tmp/", "/data/../usr", "usr", "/data//x", "/data/.", "/a\0b"),
    ],
)
def test_target_of_the_system_is_refused_in_any_spelling(target: str) -> None:
    """The engine would clean the path up after us."""
    for mount in (ro("/srv/p", target), draft("/srv/p", target)):
        with pytest.raises(SpecError):
            plan(spec(mount), facts(srv_p=DIR))


@pytest.mark.parametrize(
    "mounts",
    [
        (draft("/srv/p"), draft("/srv/p/sub")),
        (draft("/srv/p"), ro("/srv/p/sub")),
        (draft("/srv/p"), ro("/srv/q", "/srv/p")),
        (ro("/srv/p"), ro("/srv/q", "/srv/p")),
        (draft("/srv/p/file"), ro("/srv/p")),
    ],
)
def test_mounts_that_cover_each_other_are_refused(mounts: tuple[Mount, ...]) -> None:
    """Instead of one silently hiding the other, or a start that fails half way."""
    about = facts(srv_p=DIR, srv_q=DIR, srv_p_sub=DIR, srv_p_file=PathFacts(kind="file"))
    with pytest.raises(SpecError, match=r"overlap|twice|cover"):
        plan(spec(*mounts), about)


@pytest.mark.parametrize("hidden", [("sub", "dir"), ("sub", "file"), ("s", "dir")])
@pytest.mark.parametrize("turned", [False, True])
def test_a_withheld_path_that_is_a_context_path_too_is_refused(hidden: tuple, turned: bool) -> None:
    """Found by fuzzing: by the order of the list, the write path was a read-only mask, or one place had two mounts."""
    inner = f"/srv/p/{hidden[0]}" + ("/x" if hidden[0] == "s" else "")
    about = HostFacts(**{**vars(facts()), "paths": {P: dataclasses.replace(DIR, masks=(hidden,)), Path(inner): DIR}})
    mounts = (ro("/srv/p"), draft(inner))
    with pytest.raises(SpecError, match="withheld in /srv/p"):
        plan(spec(*(mounts[::-1] if turned else mounts)), about)


def test_a_mask_of_a_read_path_does_not_land_in_a_draft() -> None:
    """Found by fuzzing: the draft covers the host's file, and an empty one in its place could neither be written nor removed."""
    about = HostFacts(
        **{**vars(facts()), "paths": {P: dataclasses.replace(DIR, masks=(("sub/.env", "file"), ("k", "file"))), P / "sub": DIR}}
    )
    decided = plan(spec(ro("/srv/p"), draft("/srv/p/sub")), about)
    assert [b.target for b in decided.binds if b.source == "/cache/empty"] == ["/srv/p/k"]


def test_write_path_inside_a_read_path_is_fine() -> None:
    """Read the monorepo, write one package."""
    decided = plan(spec(ro("/srv/p"), draft("/srv/p/sub")), facts(srv_p=DIR, srv_p_sub=DIR))
    assert "/srv/p/sub" in {t.target for t in decided.tmpfs}


LIMITS = [f.name for f in dataclasses.fields(Limits) if not isinstance(f.default, bool)]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "9", None, 2**64, 1e300])
def test_limit_without_a_limit_is_refused(name: str, value: float) -> None:
    """Every one of them: zero, negative, no number, unlimited, or what a kernel would take for another number."""
    with pytest.raises(SpecError, match=name):
        plan(spec(limits=dataclasses.replace(Limits(), **{name: value})), facts())


@pytest.mark.parametrize("name", ["memory_bytes", "workspace_bytes", "tmp_bytes", "cpus"])
def test_more_than_the_machine_has_is_refused(name: str) -> None:
    """Whatever lies in memory, and processors; by the name of the limit that was asked for, and with what there is."""
    with pytest.raises(SpecError, match=f"{name} is .* ask for at most"):
        check_machine(dataclasses.replace(Limits(), **{name: 2**40}), cpus=4, memory_bytes=16 * 1024**3)
    check_machine(Limits(), cpus=1, memory_bytes=2**30)


WRONG_NAMES = [
    "",
    " ",
    "a b",
    "../../containers/json",
    "a/../b",
    "/a",
    "a/",
    "a//b",
    "a?b",
    "a#b",
    "a%2e",
    "a:",
    "a:b:c",
    "-a",
    ".a",
]
WRONG_NAMES += [
    "A",
    "a@sha256:12",
    "a\n",
    "a\0",
    "ä",
    "a:ä",
    "a:" + "b" * 129,
    "a" * 600,
    "host:port/a",
    "a\\b",
    "_a",
    "a..b",
    "a___b",
]
NAMES = [
    "a",
    "a:b",
    "a/b/c:V1.0-x_y",
    "massgen-agent:latest",
    "a_b__c.d--e",
    "host:5000/a",
    "Host/a",
    "[::1]:5000/a:t",
    "127.0.0.1/a",
]
NAMES += ["sha256:" + "0a" * 32, "0a" * 6, "a@sha256:" + "0a" * 32, "reg.example.org/x/y:1@sha256:" + "0a" * 32]


@pytest.mark.parametrize("name", WRONG_NAMES)
async def test_a_name_of_an_image_reaches_another_part_of_the_engine(name: str) -> None:
    """It becomes a part of an address: what is no reference is refused before an engine is asked (this one does not exist)."""
    with pytest.raises(SpecError, match="no name of an image"):
        await DockerEngine({"base_url": "unix:///nowhere"}, "1.41").image(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_docker_knows_is_refused(name: str) -> None:
    """Names, tags, registries, digests, ids."""
    check_image(name)


@pytest.mark.parametrize("kind", ["copy", "overlay"])
def test_memory_that_covers_files_is_raised_by_copies_alone(kind: str) -> None:
    """What a copy holds is there before the command begins, so it comes on top; an overlay lies on the disk and adds nothing."""
    about = dataclasses.replace(facts(srv_p=dataclasses.replace(DIR, bytes=7_000_000 if kind == "copy" else 0)))
    if kind == "overlay":
        about = dataclasses.replace(about, views={"/srv/p": view("/v")})
    limits = Limits(memory_bytes=2**30, memory_covers_files=True, workspace_bytes=1_000_000)
    decided = plan(spec(draft("/srv/p"), limits=limits), about)
    assert decided.memory_bytes == 2**30 + (7_000_000 if kind == "copy" else 0)
    assert [f.limit_bytes for f in decided.fills] == ([8_000_000] if kind == "copy" else [])
    assert {t.target: t.size_bytes for t in decided.tmpfs}[WORKSPACE] == 1_000_000


@pytest.mark.parametrize("kind", ["missing", "other"])
def test_what_is_neither_file_nor_folder_is_refused(kind: str) -> None:
    """For mounts and leases."""
    about = facts(srv_p=PathFacts(kind=kind))
    for mount in (ro("/srv/p"), draft("/srv/p")):
        with pytest.raises(SpecError):
            plan(spec(mount), about)
    with pytest.raises(SpecError):
        plan(spec(), about, lease(P))


def test_agents_are_never_root() -> None:
    """Neither by caller nor by wish."""
    root = HostFacts(**{**vars(facts()), "uid": 0, "gid": 0})
    assert (plan(spec(), root).uid, plan(spec(), root).gid) == (AGENT_UID, AGENT_UID)
    assert plan(spec(uid=0, gid=0), facts()).uid == AGENT_UID
    assert plan(spec(uid=5, gid=6), facts()).uid == 5


def test_lease_runs_as_the_owner_of_its_paths() -> None:
    """One owner, or refused."""
    about = facts(srv_p=DIR, srv_q=PathFacts(kind="dir", uid=1001, gid=1001))
    assert plan(spec(), about, lease(P)).uid == 1000
    with pytest.raises(SpecError, match="different users"):
        plan(spec(), about, lease(P, Path("/srv/q")))


def test_a_project_that_was_removed_is_said_to_be_somebody_elses() -> None:
    """Of a write path that is not there any more it is said that, and not whose it is."""
    about = facts(srv_p=DIR, srv_q=PathFacts(kind="missing"))
    for paths in ((Path("/srv/q"),), (P, Path("/srv/q"))):
        with pytest.raises(SpecError, match=r"^/srv/q does not exist any more"):
            plan(spec(), about, lease(*paths))


def test_protected_path_has_no_movable_folder_above_it() -> None:
    """`.git` and protected paths get the chain of binds; nothing else does."""
    about = facts(srv_p=dataclasses.replace(DIR, git_folders=(".git", "a/b/.git")))
    decided = plan(spec(), about, lease(P, protected=(P / "docs" / "spec",)))
    mine = {b.target: b.read_only for b in decided.binds if b.target.startswith("/srv")}
    assert mine == {
        "/srv/p": False,
        "/srv/p/.git": True,
        "/srv/p/a": False,
        "/srv/p/a/b": False,
        "/srv/p/a/b/.git": True,
        "/srv/p/docs": False,
        "/srv/p/docs/spec": True,
    }
    assert all(b.source == b.target for b in decided.binds if b.target.startswith("/srv"))
    assert decided.roots == ("/srv/p",)


@pytest.mark.parametrize("protected", [P, Path("/srv")])
def test_write_path_that_is_protected_as_a_whole_is_refused(protected: Path) -> None:
    """Not silently written."""
    with pytest.raises(SpecError, match="protected"):
        plan(spec(), facts(srv_p=DIR), lease(P, protected=(protected,)))


def test_withheld_folder_of_a_lease_is_not_opened_by_what_it_holds() -> None:
    """A repository inside of a withheld folder does not bring the folder back."""
    about = facts(srv_p=dataclasses.replace(DIR, git_folders=("keys/.git",), masks=(("keys", "dir"),)))
    decided = plan(spec(), about, lease(P, purpose="direct"))
    assert "/srv/p/keys" not in {b.target for b in decided.binds}
    assert "/srv/p/keys" in {t.target for t in decided.tmpfs if t.read_only}
    assert WORKSPACE in decided.roots


def test_too_many_withheld_paths_are_refused() -> None:
    """A mount for each would not start."""
    masks = tuple((f"m{i}", "file") for i in range(MAX_MASKS + 1))
    with pytest.raises(SpecError, match="withheld"):
        plan(spec(ro("/srv/p")), facts(srv_p=dataclasses.replace(DIR, masks=masks)))


def test_an_upper_layer_is_never_used_twice() -> None:
    """Two mounts with the same layers are refused: what both would show is undefined. A mask may be shared, it is only read."""
    drafts = (draft("/srv/p", "/a"), draft("/srv/p", "/b"))
    about = facts(srv_p=DIR)
    shared = {"/a": view("/v1", mask=Path("/m")), "/b": view("/v2", mask=Path("/m"))}
    assert len(plan(spec(*drafts), dataclasses.replace(about, views=shared)).overlays) == 2
    with pytest.raises(SpecError, match="in use"):
        plan(spec(*drafts), dataclasses.replace(about, views={"/a": view("/v"), "/b": view("/v")}))


@pytest.mark.parametrize("wrong", [{"source": Path("/srv/q")}, {"writable": False}])
def test_layers_of_another_mount_are_refused(wrong: dict) -> None:
    """They hide other things, or keep what was written."""
    with pytest.raises(SpecError, match="not prepared for"):
        plan(spec(draft("/srv/p")), dataclasses.replace(facts(srv_p=DIR), views={"/srv/p": view("/v", **wrong)}))


@pytest.mark.parametrize("place", ["/srv/p/v", "/srv"])
@pytest.mark.parametrize("part", ["folder", "mask"])
def test_layers_are_not_shown_as_context(place: str, part: str) -> None:
    """Layers inside of what they are laid over, or around it, would be seen and changed through it."""
    about = dataclasses.replace(facts(srv_p=DIR), views={"/srv/p": view("/v", **{part: Path(place)})})
    with pytest.raises(SpecError, match="layers of an overlay"):
        plan(spec(draft("/srv/p")), about)


def test_what_is_mounted_below_is_said_to_be_left_out() -> None:
    """An overlay and a copy stay on one file system; so does a read path where the engine cannot force it read-only."""
    about = facts(srv_p=dataclasses.replace(DIR, submounts=("data", "deep/er")))
    laid = dataclasses.replace(about, views={"/srv/p": view("/v")})
    for decided in (plan(spec(draft("/srv/p")), about), plan(spec(draft("/srv/p")), laid), plan(spec(ro("/srv/p")), about)):
        assert decided.mounts[0]["left_out"] == "data, deep/er"
    forced = plan(spec(ro("/srv/p")), dataclasses.replace(about, recursive_ro=True))
    assert "left_out" not in forced.mounts[0]


def test_what_one_path_keeps_and_another_withholds_is_not_left_to_the_engine() -> None:
    """`.git` of an inner repository: read-only for the lease, hidden by the read path. Engines refuse two mounts at one place."""
    outer = dataclasses.replace(DIR, git_folders=("sub/.git",))
    inner = dataclasses.replace(DIR, masks=((".git", "dir"),))
    about = facts(srv_p=outer, srv_p_sub=inner)
    with pytest.raises(SpecError, match=r"/srv/p/sub/\.git is kept by one of the paths and withheld by another"):
        plan(spec(ro("/srv/p/sub")), about, lease(P))
