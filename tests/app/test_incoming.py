"""Uploads: names, sizes, and archives that lie."""

import asyncio
import gzip
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from polygene.app import incoming, unpack
from polygene.errors import DataError


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("lung.h5ad", "lung.h5ad"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\evil.h5ad", "evil.h5ad"),
        ("/etc/shadow", "shadow"),
        ("..", "cells"),
        ("", "cells"),
        ("<img src=x onerror=alert(1)>.h5ad", "_img src_x onerror_alert(1)_.h5ad"),
        ("a\0b\n.h5ad", "a_b_.h5ad"),
        ("Lungenöl 3.h5ad", "Lungenöl 3.h5ad"),
        (".hidden", "hidden"),
    ],
)
def test_a_name_never_leaves_its_folder(name: str, safe: str) -> None:
    assert incoming.safe_name(name) == safe


def test_an_upload_lands_in_the_private_folder_of_its_session(client: TestClient, app, private: Path) -> None:
    answer = client.post("/api/upload", params={"name": "../../../evil.h5ad"}, content=b"bytes")
    assert answer.status_code == 200
    (session,) = app.state.sessions._sessions.values()
    (path,) = session.folder.glob("file-*/*")
    assert (path.name, path.read_bytes()) == ("evil.h5ad", b"bytes")
    assert session.folder.is_relative_to(private)
    assert app.state.sessions.root.stat().st_mode & 0o077 == 0
    assert not list(private.parent.glob("evil*"))


def test_only_a_file_that_was_read_takes_the_place_of_the_one_before(client: TestClient, app, idle) -> None:
    (session,) = app.state.sessions._sessions.values()

    def there() -> list[str]:
        return [path.name for path in session.folder.glob("file-*/*")]

    for name in ("one.h5ad", "broken.h5ad", "two.h5ad"):
        client.post("/api/upload", params={"name": name}, content=b"bytes")
        if name == "broken.h5ad":
            idle[-1].say("failed", text="it is cut off")
            assert there() == ["one.h5ad"]
            assert session.state["file"]["name"] == "one.h5ad"
        else:
            path = idle[-1].sent[-1][1]["path"]
            idle[-1].say("state", state={"file": {"name": name, "path": path}})
            idle[-1].say("done", result={})
            assert there() == [name]


def test_a_file_keeps_the_whole_of_its_name(client: TestClient, idle) -> None:
    name = "My collaborator's PBMC data (final) " + "re-annotated " * 8 + "试验.h5ad"
    assert len(name) > 140
    client.post("/api/upload", params={"name": f"C:\\data\\{name}"}, content=b"bytes")
    assert idle[-1].sent[-1][1]["name"] == name


def test_an_upload_that_says_it_is_too_large_is_refused_at_once(client: TestClient, monkeypatch) -> None:
    monkeypatch.setattr(incoming, "MOST_BYTES", 10)
    answer = client.post("/api/upload", params={"name": "big.h5ad"}, content=b"x" * 11)
    assert answer.status_code == 422
    assert "big.h5ad is larger than the 0.0 GB" in answer.json()["detail"]


def test_an_upload_that_hides_its_size_is_cut_off_and_nothing_stays(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 4

    target = tmp_path / "big.h5ad"
    with pytest.raises(DataError, match="larger than"):
        asyncio.run(incoming.receive_file(chunks(), target, 10))
    assert not target.exists()


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


PARTS = {"matrix.mtx": b"m", "features.tsv": b"f", "barcodes.tsv": b"b"}


def test_a_zipped_folder_becomes_a_flat_folder(tmp_path: Path) -> None:
    members = {f"sample/filtered/{name}.gz": gzip.compress(content) for name, content in PARTS.items()}
    file = zipped(tmp_path / "a.zip", members | {"__MACOSX/._matrix.mtx.gz": b"x", "sample/notes.txt": b"x"})
    folder = unpack.unpack(file, tmp_path / "unpacked")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == PARTS


def test_a_path_in_a_zip_writes_nothing_outside(tmp_path: Path) -> None:
    file = zipped(tmp_path / "a.zip", {"../../matrix.mtx": b"m", "/etc/features.tsv": b"f", "x/../barcodes.tsv": b"b"})
    folder = unpack.unpack(file, tmp_path / "deep" / "er") if (tmp_path / "deep").mkdir() is None else None
    assert sorted(path.name for path in folder.iterdir()) == ["barcodes.tsv", "features.tsv", "matrix.mtx"]
    assert sorted(path.name for path in tmp_path.rglob("*.mtx")) == ["matrix.mtx"]


@pytest.mark.parametrize("packed", [False, True], ids=["zip bomb", "gzip bomb in a zip"])
def test_an_archive_that_unpacks_too_large_is_not_read(tmp_path: Path, monkeypatch, packed: bool) -> None:
    monkeypatch.setattr(incoming, "MOST_BYTES", 1_000_000)
    zeros = bytes(5_000_000)
    name, content = ("matrix.mtx.gz", gzip.compress(zeros)) if packed else ("matrix.mtx", zeros)
    file = zipped(tmp_path / "bomb.zip", {name: content})
    assert file.stat().st_size < 20_000
    with pytest.raises(DataError, match=r"bomb.zip unpacks to more than"):
        unpack.unpack(file, tmp_path / "unpacked")
    assert sum(path.stat().st_size for path in (tmp_path / "unpacked").iterdir()) <= 1_000_000


def test_an_archive_that_states_a_wrong_size_is_an_error(tmp_path: Path) -> None:
    file = zipped(tmp_path / "a.zip", {"matrix.mtx": bytes(100_000)})
    lying = file.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    file.write_bytes(lying)
    with pytest.raises(DataError, match="damaged zip"):
        unpack.unpack(file, tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"notes.txt": b"x"}, "holds no matrix.mtx.gz"),
        ({f"{i}.txt": b"" for i in range(1_001)}, "holds 1,001 files"),
        ({"a/matrix.mtx": b"m", "b/matrix.mtx": b"m"}, "more than one 10x folder"),
        ({"matrix.mtx.gz": b"no gzip"}, "damaged zip"),
    ],
)
def test_other_archives_are_refused_in_words(tmp_path: Path, members: dict[str, bytes], says: str) -> None:
    with pytest.raises(DataError, match=says):
        unpack.unpack(zipped(tmp_path / "a.zip", members), tmp_path / "unpacked")


def test_a_cut_off_archive_is_refused_in_words(tmp_path: Path) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("matrix.mtx", b"m" * 1000)
    file = tmp_path / "cut.zip"
    file.write_bytes(whole.getvalue()[:200])
    with pytest.raises(DataError, match=r"cut\.zip is a damaged zip"):
        unpack.unpack(file, tmp_path / "unpacked")
