"""The process that computes for one session: jobs go in, what they say comes out, and a kill stops all of it."""

import logging
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from polygene.errors import PolyGeneError
from polygene.runtime.progress import Advance, listening

EVERY = 0.2  # seconds between two messages of progress
PLAIN = {
    r": pass layer='.*$": ": choose where those are under “Expression is in”.",
    r"; it has (layer='[^']*'(, )?)+": "; choose another under “Expression is in”",
    r" \(layer='raw', --layer raw\)": " (under “Expression is in”, where the file has it)",
    r"adata\.var(_names|\['feature_name'\])(, or into \S+ or \S+'\])?": "the gene names of the file",
    r"Where adata\.obs_names are the genes, pass adata\.T": "Where its rows are the genes, make the cells its rows",
    r"adata\.var has": "its table of genes has",
    r"adata\.": "",
    r" \(docs/\S+\.md\)|; totals='[^']*' \(--totals\) uses it|: sc\.pp\.\S+ target_sum=1e4\)": "",
}
"""What messages say to programmers, and what it is on the page and in the report."""
_SPEAKER: list[Connection] = []
_LOCK = threading.Lock()


class Worker:
    """A process with its own memory; `receive(worker, message)` is called from a thread for all that it says."""

    def __init__(self, folder: Path, receive: Callable[["Worker", dict[str, Any]], None]) -> None:
        # spawn: a fork would copy the server's locks and sockets
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, folder), daemon=True)
        self._process.start()
        self.pid = self._process.pid
        theirs.close()
        self._receive, self._stopped = receive, False
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, name: str, arguments: dict[str, Any]) -> None:
        """Start a job."""
        self._ours.send((name, arguments))

    def stop(self) -> None:
        """End the process whatever it does; its memory goes back to the system, and it says nothing more."""
        self._stopped = True
        self._process.kill()
        self._process.join()
        self._ours.close()

    def _listen(self) -> None:
        try:
            while True:
                message = self._ours.recv()
                if self._stopped:
                    return
                self._receive(self, message)
        except (EOFError, OSError):
            if not self._stopped:
                text = "The computation was ended from outside, mostly because memory ran out or the file is damaged."
                self._receive(self, {"kind": "failed", "text": text, "ended": True})


def say(kind: str, **facts: Any) -> None:
    """Tell the server, from the process that computes: "progress" and "state"; at the end "done" or "failed"."""
    with _LOCK:
        for connection in _SPEAKER:
            connection.send({"kind": kind, **facts})


def plain(text: str) -> str:
    """Say a message to who reads the page."""
    for said, there in PLAIN.items():
        text = re.sub(said, there, text)
    return text


def work(connection: Connection, folder: Path) -> None:
    """Run jobs in the folder of the session until the server is gone: the main function of the process."""
    threading.Thread(target=_end_with_server, daemon=True).start()
    _SPEAKER.append(connection)
    tempfile.tempdir = str(folder)  # what a verb transposes on disk goes when the session goes
    logging.getLogger("polygene").addHandler(logging.NullHandler())
    from polygene.app import jobs  # imports torch, while the user chooses a file

    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            return
        with listening(_Progress()):
            _run(getattr(jobs, name), arguments | {"folder": folder})


def _run(job: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        say("done", result=job(**arguments))
    except PolyGeneError as error:
        say("failed", text=plain(str(error)))
    except MemoryError:
        say("failed", text="There is not enough memory for this; close other programs, or choose fewer cells.")
    except OSError as error:
        say("failed", text=f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        say("failed", text=f"{type(error).__name__}: {error}. This is a mistake in PolyGene; please report it.")


class _Progress:
    """Says how far the work is, at most five times a second, with how many cells got each cell type so far."""

    def __init__(self) -> None:
        self._last, self._counts = 0.0, dict[str, int]()

    def __call__(self, advance: Advance, made: Any) -> None:
        obs = getattr(made, "obs", None)
        if obs is not None and len(obs.columns):
            column = "polygene_cell_type" if "polygene_cell_type" in obs else obs.columns[0]
            for label, n in obs[column].value_counts().items():
                self._counts[str(label)] = self._counts.get(str(label), 0) + int(n)
        if time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            most = sorted(self._counts.items(), key=lambda one: -one[1])[:12]
            say("progress", text=advance.done, n=advance.n, total=advance.total, left=advance.left(), live=most)


def _end_with_server() -> None:
    """End this process when the server is gone, in whatever way it went."""
    server = multiprocessing.parent_process()
    if server is not None:
        wait([server.sentinel])
        os._exit(1)
