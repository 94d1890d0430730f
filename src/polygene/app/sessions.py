"""Sessions: each browser has a folder, a worker and a state of its own, and sees those of no other."""

import re
import secrets
import tempfile
import threading
import time
from collections import deque
from itertools import count
from pathlib import Path
from typing import Any

from polygene.app.incoming import FOLDER
from polygene.app.worker import Worker
from polygene.errors import DataError
from polygene.runtime.atomic import delete
from polygene.runtime.scratch import PREFIX, ScratchFolder

MOST = 8  # sessions at a time; each may hold a worker of some 600 MB
IDLE = 600.0  # seconds after which a worker without work is ended
GONE = 3600.0  # seconds after which a session whose page was shut is removed
KEPT = 200  # messages kept for a page that connects again
HEAVY = 20_000  # cells of a file whose worker is replaced after predicting, so that its memory is free again


class Session:
    """One page's files, worker and state."""

    def __init__(self, root: Path) -> None:
        self.id = secrets.token_urlsafe(32)
        self.folder = Path(tempfile.mkdtemp(dir=root))
        self.state: dict[str, Any] = {}
        self.models: list[str] = []  # that the page may choose
        self.messages: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT)
        self.progress: dict[str, Any] | None = None
        self.listeners, self.seen = 0, time.monotonic()
        self._numbers, self._lock = count(1), threading.RLock()
        self._waiting: deque[tuple[int, str, dict[str, Any]]] = deque()
        self._job: tuple[int, str, dict[str, Any]] | None = None
        self._worker: Worker | None = None

    def warm(self) -> None:
        """Start the worker, which takes seconds to import what it needs."""
        with self._lock:
            self.seen = time.monotonic()
            self._worker = self._worker or Worker(self.folder, self._receive)

    def submit(self, name: str, /, **arguments: Any) -> int:
        """Queue a job, in place of one of the same name that still waits; return its number."""
        with self._lock:
            job = (next(self._numbers), name, arguments)
            self._waiting = deque([*(one for one in self._waiting if one[1] != name), job])
            self._next()
            return job[0]

    def cancel(self) -> None:
        """End the job at hand and those that wait."""
        with self._lock:
            if self._job is None:
                return
            ended, self._job, self.progress, self._waiting = [self._job, *self._waiting], None, None, deque()
            self._stop()
            delete(*self.folder.glob(".*.part*"), *self.folder.glob("polygene-*"))
            self._drop(f"{FOLDER}*")
            for number, name, _ in ended:
                self._tell({"kind": "failed", "id": number, "name": name, "text": "Cancelled.", "cancelled": True})
        self.warm()

    def change(self, **facts: Any) -> None:
        """Change the state, and tell the page."""
        with self._lock:
            self.state = self.state | facts  # a new one, since the server may be writing the old one out
            self._tell({"kind": "state", "state": self.state})

    def forget(self) -> None:
        """Remove the files of the session and its state; the page still hears of jobs that it waits for."""
        with self._lock:
            self.cancel()
            if list(self.folder.glob(f"{PREFIX}*")):  # of the worker, which would look for it in vain
                self._stop()
                self.warm()
            self.messages = deque((one for one in self.messages if one[1]["kind"] != "state"), KEPT)
            delete(*self.folder.iterdir())
            self.state = {}
            self.change()

    def rest(self) -> None:
        """End a worker that has had nothing to do for long."""
        with self._lock:
            if self._worker and not self._job and time.monotonic() - self.seen > IDLE:
                self._stop()

    def close(self) -> None:
        """End the worker and remove the folder."""
        with self._lock:
            self._waiting.clear()
            self._job = None
            self._stop()
            delete(self.folder)

    def _stop(self) -> None:
        if self._worker:
            self._worker.stop()
        self._worker = None

    def _next(self) -> None:
        if self._job is None and self._waiting:
            self.warm()
            assert self._worker is not None
            self._job = self._waiting.popleft()
            self.progress = {"kind": "progress", "id": self._job[0], "name": self._job[1]}
            self._worker.send(*self._job[1:])

    def _receive(self, worker: Worker, message: dict[str, Any]) -> None:
        """Pass on what the worker says about the job at hand."""
        with self._lock:
            if worker is not self._worker:
                return
            self.seen = time.monotonic()
            if self._job is None or self.progress is None:
                self._worker = None if message.get("ended") else worker
                return
            number, name, _ = self._job
            if isinstance(message.get("text"), str):  # a path of the server is no help to the reader
                ours = rf"{re.escape(str(self.folder))}[/\\]({FOLDER}\w+[/\\])?"
                message["text"] = re.sub(ours, "", message["text"])
            if message["kind"] == "progress":
                self.progress = self.progress | message
            elif message["kind"] == "state":
                if name == "read":  # only a file that can be read takes the place of the one before
                    self.state = message["state"]
                    self._drop("*")
                self.change(**message["state"])
            else:
                self._finish(message | {"id": number, "name": name})

    def _finish(self, message: dict[str, Any]) -> None:
        self._job = self.progress = None
        if message["name"] == "read":
            self._drop(f"{FOLDER}*")
        is_heavy = message["name"] == "annotate" and self.state.get("file", {}).get("cells", 0) > HEAVY
        if message.pop("ended", False) or is_heavy:
            self._stop()
            self.warm()
        self._tell(message)
        self._next()

    def _drop(self, names: str) -> None:
        """Delete what has such a name and is neither of the open file nor of the worker."""
        kept = [*Path(self.state.get("file", {}).get("path") or "").parents, self.folder / "genes.json"]
        delete(*(one for one in self.folder.glob(names) if one not in kept and not one.name.startswith(PREFIX)))

    def _tell(self, message: dict[str, Any]) -> None:
        self.messages.append((next(self._numbers), message))


class Sessions:
    """All sessions of a server, in a private folder that is gone when the server is."""

    def __init__(self) -> None:
        self._scratch = ScratchFolder("app-")
        self.root = self._scratch.path
        self._sessions: dict[str, Session] = {}

    def get(self, key: str | None) -> Session | None:
        """Find a session by the cookie of its page."""
        return self._sessions.get(key or "")

    def new(self) -> Session:
        """Make a session; where there are many, the one whose page was shut longest ago goes."""
        if len(self._sessions) >= MOST:
            shut = [one for one in self._sessions.values() if not one.listeners]
            if not shut:
                msg = f"{MOST} pages are open on this server; shut one of them first."
                raise DataError(msg)
            self._remove(min(shut, key=lambda one: one.seen))
        session = Session(self.root)
        self._sessions[session.id] = session
        return session

    def tidy(self) -> None:
        """End workers without work, and remove sessions whose page was shut long ago."""
        for session in list(self._sessions.values()):
            session.rest()
            if not session.listeners and time.monotonic() - session.seen > GONE:
                self._remove(session)

    def close(self) -> None:
        """Remove everything."""
        for session in list(self._sessions.values()):
            self._remove(session)
        self._scratch.remove()

    def _remove(self, session: Session) -> None:
        del self._sessions[session.id]
        session.close()
