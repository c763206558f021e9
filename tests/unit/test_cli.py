"""The command line as a user meets it: fast help, the right command, errors with what to do next, exit codes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from massgen.cli import demo_copy
from massgen.cli.diff import stat_lines
from massgen.cli.main import COMMANDS, main, with_command
from massgen.errors import ConfigError
from sandbox.patch import FileChange
from sandbox.views import agent_uid

HEAVY = (
    "pydantic",
    "docker",
    "openai",
    "anthropic",
    "yaml",
    "rich",
    "anyio",
    "pathspec",
    "sandbox",
    "massgen.app",
    "massgen.config",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a working directory in it, and no variable of this machine that we read."""
    home = tmp_path / "home"
    work = home / "work"
    work.mkdir(parents=True)
    for name in [n for n in os.environ if n.endswith("_API_KEY") or n.startswith(("MASSGEN_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(work)
    return work


def apart(root: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "massgen", *args],
        env={**os.environ, "PYTHONPATH": str(root), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert isinstance(ended.value.code, int)
    return ended.value.code


# -- help -------------------------------------------------------------------------------------------------------


def test_help_is_instant_and_loads_nothing(root: Path):
    """No SDK, engine client or schema library stands between a user and the help text: under 0.3 s."""
    program = (
        "import sys\nfrom massgen.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as ended:\n"
        f"    loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    print('LOADED', loaded, 'CODE', ended.code)\n"
    )
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # not the clock: that would measure how busy the machine is
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "LOADED [] CODE 0" in done.stdout
    assert min(times) < 0.3, times


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_has_help(name: str, capsys: pytest.CaptureFixture[str]):
    """The help text of the group is a table: it must not promise what is not there."""
    assert run(name, "--help") == 0
    assert "usage: massgen" in capsys.readouterr().out.lower()


def test_a_table_in_a_help_text_stays_one(capsys: pytest.CaptureFixture[str]):
    """Each variant of the image has a line of its own, which fits a terminal of 80 columns."""
    assert run("help", "images") == run("images", "build", "--help") == 0
    rows = capsys.readouterr().out.splitlines()
    assert "  node    massgen-agent:node    with nodejs, npm" in rows
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize("module", ["massgen", "massgen.cli", "massgen.v1.cli"])
def test_python_dash_m_works(root: Path, module: str):
    """As the documents of the peer write it."""
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0
    assert "massgen demo" in done.stdout


@pytest.mark.parametrize("typed", ["massgen", "massgen.cli", "massgen.v1.cli"])
def test_ctrl_c_while_the_command_line_loads_shows_a_traceback(tmp_path: Path, root: Path, typed: str):
    """The signal comes while click is imported: exit 130, and not a word."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", typed], capture_output=True, text=True, cwd=root, check=False, env={"PYTHONPATH": str(tmp_path)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("command", ["--help", "models --offline --json", "run q --model ollama:m --dry-run"])
def test_a_reader_that_leaves_is_no_verdict(command: str, root: Path):
    """`massgen … | head -1` ends as any program does there, silently: 1 would be a failed verify, 70 a bug."""
    reads, writes = os.pipe()
    os.close(reads)
    argv = [sys.executable, "-m", "massgen", *command.split()]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(root)}, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")


# -- which command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["how are you"], ["run", "how are you"]),
        (["--config", "x", "q"], ["run", "--config", "x", "q"]),
        (["-"], ["run", "-"]),
        (["diff"], ["diff"]),
        (["run", "diff"], ["run", "diff"]),
        (["--help"], ["--help"]),
        (["diff the files"], ["run", "diff the files"]),
    ],
)
def test_a_first_word_that_is_no_command_is_a_question(typed: list[str], meant: list[str]):
    """Options may come first."""
    assert with_command(typed) == meant


@pytest.mark.parametrize(
    "typed",
    [
        ["a question", "--dry-run", "--json", "--models", "ollama:a", "ollama:b"],
        ["--dry-run", "--json", "--models", "ollama:a", "ollama:b", "--", "a question"],
        ["run", "--models", "ollama:a", "ollama:b", "--dry-run", "--json", "a question"],
        ["a question", "--models", "ollama:a,ollama:b", "--dry-run", "--json"],
        ["a question", "--models", "ollama:a", "--dry-run", "--models=ollama:b", "--json"],
    ],
)
def test_models_take_the_words_up_to_the_next_option(typed: list[str], capsys: pytest.CaptureFixture[str]):
    """Or up to `--`; the question is what is left."""
    assert run(*typed) == 0
    agents = json.loads(capsys.readouterr().out)["agents"]
    assert [(agent["id"], agent["backend"], agent["model"]) for agent in agents] == [("a", "ollama", "a"), ("b", "ollama", "b")]


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("aply", "did you mean `massgen apply`"),
        ("frobnicate", "massgen run -- frobnicate"),
        ("config check", "massgen run -- 'config check'"),
    ],
)
def test_a_command_that_is_none_does_not_start_a_run(typed: str, part: str, capsys: pytest.CaptureFixture[str]):
    """A run costs money and minutes: a typo, or what another program has for a command, starts none."""
    assert run(*typed.split()) == 2
    assert part in capsys.readouterr().err


def test_a_shell_completes_what_is_there(root: Path):
    """Commands after `massgen`, options after `massgen run`, in the protocol of the lines that `massgen completion` prints."""
    asks = {"_MASSGEN_COMPLETE": "bash_complete", "COMP_WORDS": "massgen r", "COMP_CWORD": "1"}
    assert apart(root, **asks).stdout.split() == ["plain,run", "plain,resume", "plain,runs"]
    assert "plain,--max-cost" in apart(root, **asks | {"COMP_WORDS": "massgen run --m", "COMP_CWORD": "2"}).stdout
    assert "_MASSGEN_COMPLETE=bash_complete" in apart(root, "completion", "bash").stdout


def test_no_words_show_the_help_on_stderr(capsys: pytest.CaptureFixture[str]):
    """Stdout is for answers."""
    assert run() == 2
    out, err = capsys.readouterr()
    assert (out, "Commands:" in err) == ("", True)


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["a question"], ["massgen demo", "--config", "--model"]),
        (["--config", "none.yaml", "q"], ["none.yaml", "does not exist"]),
        (["--config", "typo.yaml", "q"], ["typo.yaml:3", "did you mean `model`"]),
        (["--config", "key.yaml", "q"], ["key.yaml:4", "NOT_SET"]),
        (["--model", "claude-x", "q"], ["ANTHROPIC_API_KEY"]),
        (["--model", "mystery", "q"], ["--backend"]),
        (["--backend", "ag2", "--model", "g", "q"], ["not in this version", "chatcompletion"]),
        (["q", "--models", "local", "claud-sonnet-4.5"], ["did you mean `claude-sonnet-4-5` (claude)"]),
        (["--models", "local", "q"], ["there is no question", "'q'", "--models A B --"]),
        (["--models"], ["--models", "requires an argument"]),
        (["--models", "local", "--agents", "a", "--", "q"], ["--agents and --models both"]),
        (["--model", "local", "--read", "nowhere", "q"], ["nowhere", "does not exist"]),
        (["--model", "local", "--read", "~", "q"], ["home folder"]),
        (["--model", "local", "--write", "/", "q"], ["whole machine"]),
        (["--model", "local", "--write", ".", "--apply", "--write-mode", "never", "q"], ["contradict"]),
        (["--model", "local", "--apply", "q"], ["add --write"]),
        (["--model", "local", "--timeout", "soon", "q"], ["not a duration"]),
        (["--model", "local", "--write-mode", "sometimes", "q"], ["review"]),
        (["--model", "local", "--nonsense", "q"], ["--nonsense"]),
        (["--model", "local", "two", "words"], ["words"]),
        (["--model", "local", "  "], ["empty"]),
        (["diff"], ["no run yet"]),
        (["apply", "x"], ["no run yet"]),
        (["undo"], ["no run yet"]),
    ],
)
def test_bad_input_says_what_which_and_what_next(
    elsewhere: Path, args: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
):
    """Exit code 2, nothing on stdout, no traceback, nothing left behind."""
    (elsewhere / "typo.yaml").write_text("agents:\n  - id: a\n    backend: {type: claude, modle: x}\n")
    (elsewhere / "key.yaml").write_text("agent:\n  id: a\n  backend:\n    {type: claude, model: x, api_key: '${NOT_SET}'}\n")
    before = sorted(elsewhere.rglob("*"))
    code = run(*args)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert all(part in err for part in parts), err
    assert "Traceback" not in err
    assert err.startswith("error: ")
    assert sorted(elsewhere.rglob("*")) == before


def test_no_engine_is_exit_125_with_a_remedy(root: Path, elsewhere: Path):
    """And no run folder is left that pretends that something ran."""
    (elsewhere / "s.yaml").write_text("[]")
    (elsewhere / "t.yaml").write_text("agent: {id: a, backend: {type: scripted, script: s.yaml}}")
    done = apart(root, "--config", "t.yaml", "q", DOCKER_HOST=f"unix://{elsewhere}/none.sock")
    assert (done.returncode, done.stdout) == (125, ""), done.stderr
    assert "massgen doctor" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (elsewhere / ".massgen").exists()


def test_doctor_without_an_engine_fails_with_a_remedy(root: Path, elsewhere: Path):
    """Exit code 1: a negative verdict."""
    done = apart(root, "doctor", "--json", DOCKER_HOST=f"unix://{elsewhere}/none.sock")
    found = json.loads(done.stdout)
    engine = found["findings"][0]
    assert (done.returncode, found["ok"], engine["name"], engine["state"]) == (1, False, "engine", "failed")
    assert "Docker" in engine["remedy"]


def test_an_unexpected_error_is_called_a_bug_and_not_a_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Python's own exit code 1 would mean that a verify failed."""
    monkeypatch.setattr("massgen.cli.main.cli.main", lambda **_: 1 / 0)
    assert run("doctor") == 70
    assert "bug in massgen" in capsys.readouterr().err


def test_an_error_inside_a_task_group_is_still_that_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Exception groups are how it travelled, not what happened."""

    def fail(**_: object) -> None:
        raise BaseExceptionGroup("x", [BaseExceptionGroup("y", [ConfigError("bad \x1b[31mfile")])])

    monkeypatch.setattr("massgen.cli.main.cli.main", fail)
    assert run("doctor") == 2
    assert capsys.readouterr().err == "error: bad \\x1b[31mfile\n"


# -- dry run --------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_agents_would_see_and_starts_nothing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """With the engine out of reach, and without a trace on disk."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary")
    (elsewhere / ".git").mkdir()
    (elsewhere / ".env").write_text("SECRET=1")
    (elsewhere / "a.py").write_text("x")
    before = sorted(elsewhere.rglob("*"))
    assert run("--model", "claude-x", "--dry-run", "--verify", "pytest -q", "q") == 0
    text = capsys.readouterr().out
    assert run("--model", "claude-x", "--dry-run", "--json", "q") == 0
    plan = json.loads(capsys.readouterr().out)
    for part in ("claude-x", "ANTHROPIC_API_KEY", f"draft {elsewhere}", "secret     .env", "pytest -q", "review", "no network"):
        assert part in text, text
    assert "canary" not in text + json.dumps(plan)
    assert plan["context"][0]["withheld"][0] == {"path": ".env", "reason": "secret"}
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("owned", [True, False])
def test_a_dry_run_says_how_drafts_are_made(elsewhere: Path, capsys: pytest.CaptureFixture[str], *, owned: bool):
    """Overlay or copy, with what of the history, and why it is less; what is then shown of `.git` is not listed as withheld."""
    project = elsewhere / "project"
    project.mkdir()
    (project / ".env").write_text("SECRET=1")
    identity = ("-c", "user.name=u", "-c", "user.email=u@example.org")
    for words in (("init", "-q"), ("add", "-f", ".env"), (*identity, "commit", "-qm", "oops")):
        subprocess.run(["git", "-C", str(project), *words], check=True, capture_output=True)
    (elsewhere / "team.yaml").write_text("agent: {id: a, backend: {type: scripted, script: s.yaml}}\nsandbox: {draft: auto}\n")
    (elsewhere / "s.yaml").write_text("[]")
    uid = agent_uid() if owned else agent_uid() + 1
    if os.getuid() == 0:
        os.chown(project, uid, uid)
    elif not owned:
        pytest.skip("only root can give a folder away")
    assert run("--config", "team.yaml", "--write", "project", "--dry-run", "q") == 0
    text = capsys.readouterr().out
    assert ("overlay, its history replaced by one commit" in text) is owned
    assert ("git: .env is in its history" in text) is owned
    assert ("copy, its history replaced by one commit" in text) is not owned
    assert ("belongs to uid" in text) is not owned
    assert "git        .git" not in text
    (elsewhere / "team.yaml").write_text((elsewhere / "team.yaml").read_text().replace("auto", "overlay"))
    assert run("--config", "team.yaml", "--write", "project", "--dry-run", "q") == (0 if owned else 2)
    assert ("use `draft: copy` or `auto`" in capsys.readouterr().err) is not owned


def test_a_question_on_stdin_is_read_for_a_dash_only(root: Path, elsewhere: Path):
    """A pipe that nobody closes must not hang a run that has its question."""
    env = {**os.environ, "PYTHONPATH": str(root)}
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "massgen", "--model", "local", "--dry-run"]
    try:
        done = subprocess.run([*command, "question"], stdin=reading, env=env, timeout=20, capture_output=True, check=False)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0, done.stderr
    for question, code in ((b"what?", 0), (b" \n", 2)):
        done = subprocess.run([*command, "-"], input=question, env=env, timeout=20, capture_output=True, check=False)
        assert done.returncode == code, done.stderr


# -- small parts ------------------------------------------------------------------------------------------------------


def test_stat_says_of_every_file_what_became_of_it():
    """Lines where there are any; what is binary, new or gone, or has another mode alone, does not read as unchanged."""
    changes = [
        FileChange(path="x.py", kind="changed", added=2, removed=1),
        FileChange(path="long/name.py", kind="added", added=1),
        FileChange(path="old.bin", kind="deleted", binary=True),
        FileChange(path="run.sh", kind="changed"),
    ]
    assert [str(row) for row in stat_lines(changes)] == [
        "x.py         | +2 -1",
        "long/name.py | +1 -0, added",
        "old.bin      | binary, deleted",
        "run.sh       | mode",
        "4 files +3 -1",
    ]
    assert stat_lines([]) == []


def test_the_demo_never_touches_what_a_user_made(tmp_path: Path):
    """It reuses its own folder, in the state it was copied or left in, and goes beside everything else."""
    first = demo_copy.place(tmp_path / "demo")
    assert first.name == "demo"
    assert demo_copy.place(tmp_path / "demo") == first
    (first / "listkit/__init__.py").write_text("fixed")
    assert demo_copy.place(tmp_path / "demo").name == "demo-2"
    demo_copy.leave(first)
    assert demo_copy.place(tmp_path / "demo") == first
    assert "append(flatten" in (first / "listkit/__init__.py").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert demo_copy.place(tmp_path / "mine").name == "mine-2"
    assert demo_copy.place(tmp_path / "link").name == "link-2"
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["file"]


def test_the_demo_project_fails_for_the_reason_that_it_says(tmp_path: Path):
    """Two of its four tests fail, and one changed word makes all of them pass."""
    place = demo_copy.place(tmp_path / "demo")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", "."]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert "2 failed, 2 passed" in done.stdout, done.stdout
    code = place / "listkit/__init__.py"
    code.write_text(code.read_text().replace("flat.append(flatten", "flat.extend(flatten"))
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert "4 passed" in done.stdout, done.stdout
