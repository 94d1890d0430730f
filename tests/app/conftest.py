"""A server without computation, a server with it, and the headers that the page sends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from polygene.app import sessions
from polygene.app.routes import make_app

ADDRESS = "http://127.0.0.1:8787"
OWN = {"origin": ADDRESS, "x-polygene": "1"}


class Idle:
    """Takes the place of a worker where nothing is computed: it keeps the jobs it is sent."""

    made: list["Idle"]

    def __init__(self, folder: Path, receive: Any) -> None:
        self.folder, self.receive, self.sent, self.stopped = folder, receive, [], False
        self.pid = None
        Idle.made.append(self)

    def send(self, name: str, arguments: dict[str, Any]) -> None:
        self.sent.append((name, arguments))

    def stop(self) -> None:
        self.stopped = True

    def say(self, kind: str, **facts: Any) -> None:
        self.receive(self, {"kind": kind, **facts})


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the temporary folders of a test's server apart."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(sessions.tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> list[Idle]:
    """Replace workers by ones that compute nothing."""
    Idle.made = []
    monkeypatch.setattr(sessions, "Worker", Idle)
    return Idle.made


@pytest.fixture
def app(idle: list[Idle]) -> Any:
    return make_app()


@pytest.fixture
def client(app: Any) -> Iterator[TestClient]:
    """A page that has been opened."""
    with TestClient(app, base_url=ADDRESS) as client:
        assert client.get("/").status_code == 200
        client.headers.update(OWN)
        yield client
