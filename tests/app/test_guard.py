"""What reaches the server: its own page under its own name, and nothing else."""

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from polygene import app as app_room
from polygene.app.guard import HEADERS
from polygene.app.routes import make_app

ADDRESS = "http://127.0.0.1:8787"
STATIC = Path(app_room.__file__).parent / "static"
OWN_FILES = [path for path in STATIC.iterdir() if path.is_file()]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8787", "127.0.0.1.nip.io", "", "localhost.evil.example"]
)
def test_a_name_that_only_points_here_is_refused(client: TestClient, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/state"), ("GET", "/static/app.js"), ("POST", "/api/cancel")):
        assert client.request(method, path, headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "localhost:8787", "[::1]:8787"])
def test_names_of_this_computer_are_taken(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8787"},
        {"origin": ""},
        {"x-polygene": "0"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_request_of_another_site_changes_nothing(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/api/open", json={}, headers=headers)
    assert answer.status_code == 403
    assert answer.text.startswith("Refused")


def test_a_link_of_another_site_opens_the_page_and_an_image_of_it_does_not(app) -> None:
    elsewhere = {"sec-fetch-site": "cross-site"}
    with TestClient(app, base_url=ADDRESS) as client:
        assert client.get("/", headers=elsewhere | {"sec-fetch-dest": "image"}).status_code == 403
        assert client.get("/", headers=elsewhere | {"sec-fetch-dest": "iframe"}).status_code == 403
        assert not app.state.sessions._sessions
        assert client.get("/", headers=elsewhere | {"sec-fetch-dest": "document"}).status_code == 200
        assert client.get("/api/state", headers=elsewhere | {"sec-fetch-dest": "document"}).status_code == 403


def test_no_process_starts_before_the_script_of_the_page_asks(client: TestClient, idle) -> None:
    assert idle == []
    client.get("/api/state")
    assert len(idle) == 1


def test_no_model_is_fetched_from_elsewhere(client: TestClient, app) -> None:
    app.state.sessions.get(client.cookies["polygene-8787"]).change(file={"maps": []})
    answer = client.post("/api/run", json={"model": "owner/name"})
    assert answer.status_code == 422
    assert "There is no model 'owner/name' here" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["", "  ", "/dev/zero", "/nowhere/cells.h5ad", "http://evil.example/cells.h5ad", "~nobody/x"]
)
def test_a_path_that_is_no_file_of_this_computer_is_not_opened(client: TestClient, path: str, idle) -> None:
    answer = client.post("/api/open", json={"path": path})
    assert answer.status_code == 422
    assert "There is no file" in answer.json()["detail"]
    assert idle == []


@pytest.mark.parametrize("body", ['{"path": 5}', "[]", '{"path": "' + "x" * 5_000 + '"}', "no json"])
def test_a_request_that_makes_no_sense_is_refused(client: TestClient, body: str) -> None:
    assert client.post("/api/open", content=body, headers={"content-type": "application/json"}).status_code == 422


def test_a_form_of_another_site_cannot_send_the_header_of_our_page(client: TestClient) -> None:
    del client.headers["x-polygene"]
    assert client.post("/api/close", headers={"origin": ADDRESS}).status_code == 403


def test_every_answer_carries_the_policy_that_keeps_scripts_of_others_out(client: TestClient) -> None:
    for path in ("/", "/static/app.js", "/api/state", "/nothing"):
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert HEADERS["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_the_page_holds_no_inline_script_and_no_style_that_the_policy_refuses() -> None:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", text)


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.name)
def test_no_asset_names_another_host(path: Path) -> None:
    hosts = re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"'`]*", path.read_text(encoding="utf-8"))
    assert set(hosts) <= {"http://www.w3.org/2000/svg"}, "the name of SVG is no address that is fetched"


@pytest.mark.parametrize("path", [path for path in OWN_FILES if path.suffix == ".js"], ids=lambda path: path.name)
def test_text_of_files_never_becomes_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)


def test_two_pages_have_two_sessions_and_neither_sees_the_other(app, client: TestClient) -> None:
    mine = client.cookies["polygene-8787"]
    app.state.sessions.get(mine).change(file={"name": "mine.h5ad"})
    other = TestClient(app, base_url=ADDRESS)
    assert other.get("/api/state").status_code == 401
    other.get("/")
    assert other.cookies["polygene-8787"] != mine
    assert other.get("/api/state").json()["state"] == {}
    folders = {one.folder for one in app.state.sessions._sessions.values()}
    assert len(folders) == 2


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(app) -> None:
    with TestClient(app, base_url=ADDRESS) as client:
        cookie = client.get("/").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.fixture
def shared(idle):
    """A server that other computers reach."""
    return make_app(host="0.0.0.0", token="the-token")


def test_another_computer_needs_the_token(shared) -> None:
    address = "http://192.168.1.5:8787"
    with TestClient(shared, base_url=address, headers={"origin": address, "x-polygene": "1"}) as client:
        assert client.get("/").status_code == 200
        assert not client.cookies
        for method, path in (
            ("GET", "/api/state"),
            ("POST", "/api/open"),
            ("GET", "/api/take/h5ad"),
            ("GET", "/api/events"),
        ):
            assert client.request(method, path, json={} if method == "POST" else None).status_code == 401
        assert client.post("/api/token", json={"name": "guess"}).status_code == 403
        assert client.post("/api/token", json={"name": "the-token"}).status_code == 200
        assert client.get("/api/state").status_code == 200
        assert "the-token" not in str(dict(client.cookies))


def test_a_name_that_is_no_address_is_refused_there_too(shared) -> None:
    with TestClient(shared, base_url="http://evil.example") as client:
        assert client.get("/").status_code == 403


def test_a_server_for_others_opens_no_path_of_this_computer(shared, tmp_path: Path) -> None:
    file = tmp_path / "cells.h5ad"
    file.write_bytes(b"secret")
    address = "http://10.0.0.2:8787"
    with TestClient(shared, base_url=address, headers={"origin": address, "x-polygene": "1"}) as client:
        client.post("/api/token", json={"name": "the-token"})
        answer = client.post("/api/open", json={"path": str(file)})
    assert answer.status_code == 422
    assert "opens no paths" in answer.json()["detail"]


def test_a_server_for_this_computer_gives_no_session_for_a_token(client: TestClient) -> None:
    assert client.post("/api/token", json={"name": ""}).status_code == 403
