"""What answers in the place of an engine, or in its name, cannot fill a screen with its words or pass for a bug of ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from sandbox import DockerEngine, EngineError

LONG = "first " + "x" * 200_000 + "\n\n last"


class Answers(BaseHTTPRequestHandler):
    """The same for every request."""

    code = 200
    body = ""

    def do_GET(self) -> None:
        """Answer."""
        data = self.body.encode()
        self.send_response(self.code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def address_string(self) -> str:
        """A socket in a folder has none."""
        return ""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    server = ThreadingUnixStreamServer(str(tmp_path / "s"), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"unix://{tmp_path}/s"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "body", "word"),
    [
        (500, LONG, "last"),
        (404, "<html>\n<body>not here</body></html>", "not here"),
        (200, "<html></html>", "no Docker engine"),
        (200, "{}", "no Docker engine"),
        (200, "[]", "no Docker engine"),
        (200, '{"ApiVersion": "of old"}', "no Docker engine"),
        (200, '{"ApiVersion": null}', "no Docker engine"),
    ],
)
async def test_an_engine_that_is_none_ends_in_a_traceback(
    address: str, monkeypatch: pytest.MonkeyPatch, code: int, body: str, word: str
) -> None:
    """One line of at most 1,500 characters, its end among them, where the reason often is."""
    monkeypatch.setattr(Answers, "code", code)
    monkeypatch.setattr(Answers, "body", body)
    with pytest.raises(EngineError) as told:
        await DockerEngine.connect({"DOCKER_HOST": address})
    text = str(told.value)
    assert word in text
    assert "\n\n" not in text
    assert len(text) < 1500
