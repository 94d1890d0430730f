"""Sessions: jobs one after the other, cancelling, and that nothing is left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from polygene.app import sessions
from polygene.app.sessions import Session, Sessions
from polygene.app.worker import Worker


@pytest.fixture
def session(idle, tmp_path: Path) -> Session:
    session = Session(tmp_path)
    session.warm()
    return session


def said(session: Session) -> list[dict]:
    return [message for _, message in session.messages]


def test_jobs_run_one_after_the_other(session: Session, idle) -> None:
    first, second = session.submit("gene", name="CD4"), session.submit("take", what="csv")
    assert [name for name, _ in idle[0].sent] == ["gene"]
    idle[0].say("done", result={"gene": "CD4"})
    assert [name for name, _ in idle[0].sent] == ["gene", "take"]
    idle[0].say("failed", text="no")
    assert [(one["kind"], one["id"]) for one in said(session)] == [("done", first), ("failed", second)]


def test_a_newer_question_takes_the_place_of_one_that_waits(session: Session, idle) -> None:
    session.submit("gene", name="CD4")
    session.submit("selected", folder="old")
    session.submit("selected", folder="new")
    idle[0].say("done", result={})
    assert idle[0].sent[1] == ("selected", {"folder": "new"})
    idle[0].say("done", result={})
    assert len(idle[0].sent) == 2


def test_cancelling_ends_the_worker_and_what_waits(session: Session, idle) -> None:
    (session.folder / ".annotated.h5ad.host-1-a.part.h5ad").touch()
    (session.folder / "polygene-transposed").mkdir()
    jobs = {session.submit("annotate", file={}): "annotate", session.submit("draw"): "draw"}
    session.cancel()
    assert idle[0].stopped
    cancelled = {"kind": "failed", "text": "Cancelled.", "cancelled": True}
    assert said(session) == [cancelled | {"id": number, "name": name} for number, name in jobs.items()]
    assert not list(session.folder.iterdir())
    assert idle[1].sent == []
    idle[0].say("done", result={"late": True})
    assert len(said(session)) == 2, "an ended worker says nothing more"


def test_who_waits_for_a_job_of_a_file_that_is_closed_is_told(session: Session, idle) -> None:
    session.change(file={"cells": 1})
    number = session.submit("draw")
    session.forget()
    assert [(one["kind"], one.get("id")) for one in said(session)] == [("failed", number), ("state", None)]


def test_predicting_again_ends_the_map_of_before(client: TestClient, app, idle) -> None:
    client.get("/api/state")
    (session,) = app.state.sessions._sessions.values()
    session.change(file={"maps": []}, run={"options": {"model": "polygene-512"}}, plane=None)
    client.post("/api/draw")
    client.post("/api/run", json={})
    idle[0].say("state", state={"map": "of what was predicted before"})
    assert session.state["map"] is None
    assert [name for name, _ in idle[-1].sent] == ["annotate"]


def test_a_worker_that_dies_ends_its_job_with_a_message_and_another_goes_on(session: Session, idle) -> None:
    session.submit("read", path="x")
    idle[0].say("failed", text="ended from outside", ended=True)
    assert said(session)[0]["text"] == "ended from outside"
    session.submit("gene", name="CD4")
    assert [name for name, _ in idle[-1].sent] == ["gene"]
    assert idle[-1] is not idle[0]


def test_a_worker_whose_scratch_folder_goes_with_a_file_is_replaced(session: Session, idle) -> None:
    session.forget()
    assert len(idle) == 1
    (session.folder / "polygene-transposed").mkdir()  # it would be looked for when the file is opened again
    session.forget()
    assert idle[0].stopped
    assert len(idle) == 2
    assert not list(session.folder.iterdir())


def test_messages_name_no_folder_of_the_server(session: Session, idle) -> None:
    session.submit("read", path="x")
    idle[0].say("failed", text=f"{session.folder}/cells.h5ad is cut off")
    assert said(session)[0]["text"] == "cells.h5ad is cut off"
    session.submit("read", path="x")
    idle[0].say("failed", text=f"{session.folder}/file-a1_b/cells.h5ad is cut off")
    assert said(session)[1]["text"] == "cells.h5ad is cut off"


def test_memory_of_a_large_file_is_free_after_predicting(session: Session, idle) -> None:
    session.change(file={"cells": sessions.HEAVY + 1})
    session.submit("annotate", file={})
    idle[0].say("done", result={})
    assert idle[0].stopped
    assert len(idle) == 2


def test_closing_a_file_removes_it(client: TestClient, app) -> None:
    client.post("/api/upload", params={"name": "cells.h5ad"}, content=b"bytes")
    (session,) = app.state.sessions._sessions.values()
    assert client.post("/api/close").status_code == 200
    assert not list(session.folder.iterdir())
    assert client.get("/api/state").json()["state"] == {}


def test_the_server_removes_all_files_when_it_ends(idle, private: Path) -> None:
    from polygene.app.routes import make_app

    with TestClient(make_app(), base_url="http://127.0.0.1:8787") as client:
        client.get("/")
        client.get("/api/state")
        assert len(list(private.iterdir())) == 1
    assert not list(private.iterdir())
    assert idle[0].stopped


def test_the_next_start_removes_what_a_crash_left_and_nothing_else(private: Path) -> None:
    running, other = Sessions(), private / "polygene-app-of-another-program"
    other.mkdir()
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from polygene.app.sessions import Sessions\n"
        "one = Sessions(); one.root.joinpath('secret').write_text('x'); print(one.root, flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, private], capture_output=True, text=True, check=False)
    crashed = Path(done.stdout.strip())
    assert done.returncode == 9
    assert crashed.joinpath("secret").exists()
    Sessions().close()
    assert not crashed.exists()
    assert running.root.exists(), "a server that runs holds its lock"
    assert other.exists()
    running.close()


def test_a_session_whose_page_was_shut_long_ago_is_removed(idle, monkeypatch) -> None:
    every = Sessions()
    shut, open_ = every.new(), every.new()
    open_.listeners = 1
    monkeypatch.setattr(sessions, "GONE", -1.0)
    every.tidy()
    assert every.get(shut.id) is None
    assert not shut.folder.exists()
    assert every.get(open_.id) is open_
    every.close()


def test_a_worker_without_work_is_ended(session: Session, idle, monkeypatch) -> None:
    monkeypatch.setattr(sessions, "IDLE", -1.0)
    session.submit("gene", name="CD4")
    session.rest()
    assert not idle[0].stopped
    idle[0].say("done", result={})
    session.rest()
    assert idle[0].stopped


def test_the_number_of_sessions_is_bounded(idle, monkeypatch) -> None:
    monkeypatch.setattr(sessions, "MOST", 2)
    every = Sessions()
    first, second = every.new(), every.new()
    second.listeners = 1
    third = every.new()
    assert every.get(first.id) is None
    third.listeners = 1
    with pytest.raises(sessions.DataError, match="2 pages are open"):
        every.new()
    every.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_stopping_a_worker_ends_its_process_in_the_middle_of_work(tmp_path: Path) -> None:
    heard: list[dict] = []
    worker = Worker(tmp_path, lambda _, message: heard.append(message))
    worker.send("read", {"path": None, "name": "pbmc"})
    until = time.monotonic() + 120
    while not heard and time.monotonic() < until:
        time.sleep(0.05)
    pid = worker.pid
    assert is_running(pid)
    worker.stop()
    assert not is_running(pid)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_a_killed_server_takes_its_workers_with_it(private: Path) -> None:
    code = (
        "import sys, time, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from polygene.app.sessions import Sessions\n"
        "if __name__ == '__main__':\n"
        "    session = Sessions().new(); session.warm(); print(session._worker.pid, flush=True); time.sleep(600)"
    )
    script = private / "server.py"
    script.write_text(code)
    server = subprocess.Popen([sys.executable, script, private], stdout=subprocess.PIPE, text=True)
    pid = int(server.stdout.readline())
    time.sleep(3)
    assert is_running(pid)
    os.kill(server.pid, 9)
    server.wait()
    server.stdout.close()
    until = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_running(pid)
