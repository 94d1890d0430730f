import contextlib
import functools
import gzip
import http.server
import re
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import known_implementations
from scipy import sparse

from polygene.errors import DataError, MissingExtraError
from polygene.io import paths
from polygene.io.paths import expand_paths, local_copy, parse_path
from polygene.io.read import open_cells, open_sources
from polygene.runtime.scratch import scratch_folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; what is named "half" stops after half of its bytes, what is named "stalled" waits there."""

    def log_message(self, *args):
        self.server.requests.append((self.command, self.path))

    def copyfile(self, source, outputfile):
        content = source.read()
        if "stalled" not in self.path and "half" not in self.path:
            outputfile.write(content)
            return
        outputfile.write(content[: len(content) // 2])
        outputfile.flush()
        if "stalled" in self.path:
            self.server.go_on.wait(30)


@pytest.fixture
def server(tmp_path):
    """A web server on this machine: (its URL, the folder it serves, the requests)."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as httpd:
        httpd.requests, httpd.go_on = [], threading.Event()
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder, httpd.requests
        httpd.go_on.set()
        httpd.shutdown()
        thread.join()


@pytest.fixture
def memory():
    """The memory file system of fsspec, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


@pytest.fixture(autouse=True)
def _no_copies(monkeypatch):
    monkeypatch.setattr(paths, "_copies", {})


def whole(cells):
    return sparse.vstack([chunk.X for chunk in cells.chunks(size=64)]).tocsr()


def scratch():
    return sorted(path.name for path in Path(scratch_folder()).rglob("*"))


def test_every_format_is_read_from_a_web_server(make_adata, write_as, server, cell_format):
    url, folder, _ = server
    adata = make_adata()
    name = write_as(adata, folder, cell_format).name
    cells = open_cells(f"{url}/{name}" + ("/" if cell_format.startswith("mtx") else ""))
    assert (whole(cells) != adata.X).nnz == 0
    cells.write_h5ad(folder / "copy.h5ad")
    assert (whole(open_cells(folder / "copy.h5ad")) != adata.X).nnz == 0
    assert (cells.label, cells.name) == (f"{url}/{name}" + "/" * cell_format.startswith("mtx"), Path(name).stem)


def test_every_format_is_read_from_a_store_of_objects(make_adata, write_as, tmp_path, memory, cell_format):
    adata = make_adata()
    path = write_as(adata, tmp_path, cell_format)
    memory.put(str(path), f"/bucket/{path.name}", recursive=True)
    assert (whole(open_cells(f"memory://bucket/{path.name}")) != adata.X).nnz == 0


def test_a_file_is_fetched_once_however_often_it_is_read(make_adata, write_as, server):
    url, folder, requests = server
    write_as(make_adata(), folder, "csr.h5ad")
    for _ in range(2):
        cells = open_cells(f"{url}/cells-csr.h5ad")
        whole(cells)
    assert [command for command, _ in requests].count("GET") == 1
    assert cells.path.read_bytes() == (folder / "cells-csr.h5ad").read_bytes()


def test_a_file_that_came_damaged_is_fetched_anew(make_adata, write_as, server):
    url, folder, _ = server
    path = write_as(make_adata(), folder, "csr.h5ad")
    content, before = path.read_bytes(), scratch()
    for broken, says in ((content[: len(content) // 2], "cut off or damaged"), (b"<html>log in</html>", "is not an")):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=says):
            whole(open_cells(f"{url}/{path.name}"))
        assert scratch() == before
    path.write_bytes(content)
    assert whole(open_cells(f"{url}/{path.name}")).nnz


def test_a_url_that_stops_half_way_says_how_much_came_and_leaves_nothing(make_adata, write_as, server):
    url, folder, _ = server
    path = write_as(make_adata(), folder, "csr.h5ad")
    path.rename(folder / "half.h5ad")
    size, before = (folder / "half.h5ad").stat().st_size, scratch()
    with pytest.raises(
        DataError, match=rf"half\.h5ad stopped after .* of {size:,} bytes, and nothing was kept"
    ) as error:
        open_cells(f"{url}/half.h5ad")
    came = int(re.search(r"after ([\d,]+) of", str(error.value))[1].replace(",", ""))
    assert came == size // 2
    assert scratch() == before


def test_a_download_that_stalls_is_given_up_and_leaves_nothing(make_adata, write_as, server, monkeypatch):
    url, folder, _ = server
    monkeypatch.setattr(paths, "PATIENCE", 0.5)
    path = write_as(make_adata(), folder, "csr.h5ad").rename(folder / "stalled.h5ad")
    size, before = path.stat().st_size, scratch()
    with pytest.raises(
        DataError, match=rf"stalled\.h5ad stopped after .* of {size:,} bytes.*nothing came for.*Try again"
    ):
        open_cells(f"{url}/stalled.h5ad")
    assert scratch() == before


class Answer(socketserver.BaseRequestHandler):
    """Answers every request with the head and the body that the server has."""

    def handle(self):
        self.request.recv(1 << 16)
        self.request.sendall(self.server.head.encode() + b"\r\n\r\n" + self.server.body)


@pytest.fixture
def answering():
    """Give the URL of a server that answers with a head and a body, whatever they say of each other."""
    with contextlib.ExitStack() as stack:

        def start(head, body):
            server = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer))
            server.head, server.body = f"HTTP/1.1 200 OK\r\nConnection: close\r\n{head}", body
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}/cells.h5ad"

        yield start


@pytest.mark.parametrize("length", ["", "\r\nContent-Length: {}"])
def test_a_file_that_the_server_packs_on_the_way_arrives_unpacked(answering, length):
    content = b"cells" * 10_000
    packed = gzip.compress(content)
    url = answering("Content-Encoding: gzip" + length.format(len(packed)), packed)
    assert local_copy(url).read_bytes() == content


@pytest.mark.parametrize("said", ["90000", "10", "-5", "many", "5\r\nContent-Length: 7"])
def test_a_server_that_lies_about_the_length_is_told_in_one_line(answering, said):
    with pytest.raises(DataError, match=r"stopped after|cannot be reached") as caught:
        local_copy(answering(f"Content-Length: {said}", bytes(50_000)))
    assert "\n" not in str(caught.value)
    assert "index out of range" not in str(caught.value)


def test_who_watches_sees_how_far_it_is(memory, monkeypatch, capsys):
    memory.pipe("/cells.h5ad", bytes(2_000_000))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert local_copy("memory://cells.h5ad").stat().st_size == 2_000_000
    shown = capsys.readouterr().err
    assert "fetched cells.h5ad" in shown
    assert "2/2" in shown
    assert "MB/s" in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_is_said_with_the_way_out(memory, monkeypatch):
    memory.pipe("/cells.h5ad", bytes(100_000))
    fetch = type(memory).get_file

    def get_file(files, source, target, **options):
        Path(target).touch()
        fetch(files, source, "/dev/full", **options)

    monkeypatch.setattr(type(memory), "get_file", get_file)
    with pytest.raises(DataError, match=r"No space left on device\)\. Set TMPDIR"):
        local_copy("memory://cells.h5ad")


def test_fewer_bytes_without_an_error_are_noticed_too(memory, monkeypatch):
    memory.pipe("/cells.h5ad", bytes(1000))
    monkeypatch.setattr(type(memory), "get_file", cut_get_file)
    with pytest.raises(
        DataError, match=r"stopped after 400 of 1,000 bytes, and nothing was kept \(the connection closed"
    ):
        local_copy("memory://cells.h5ad")


def cut_get_file(files, source, target, callback):
    callback.set_size(1000)
    Path(target).write_bytes(bytes(400))


def test_an_address_without_a_file_is_refused(server):
    url, folder, _ = server
    (folder / "cells.zarr").mkdir()
    for name, message in (("absent.h5ad", "there is nothing at"), ("absent.zarr", "there is no zarr store at")):
        with pytest.raises(DataError, match=rf"{message} {url}/{name}"):
            open_cells(f"{url}/{name}")
    with pytest.raises(DataError, match=r"there is nothing at memory://absent\.h5ad"):
        open_cells("memory://absent.h5ad")


def test_what_cannot_be_reached_is_said(server, monkeypatch):
    url, _, _ = server
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "do_GET", lambda self: self.send_error(403))
        with pytest.raises(DataError, match=rf"{url}/cells\.h5ad cannot be reached: 403"):
            open_cells(f"{url}/cells.h5ad")
    nobody = "http://127.0.0.1:9"
    for name in ("cells.h5ad", "mtx/", "cells.zarr"):
        with pytest.raises(DataError, match=rf"{nobody}/{name} (cannot be reached|cannot be read, it is out of reach)"):
            open_cells(f"{nobody}/{name}")
    with pytest.raises(DataError, match=r"could not be listed|there is no file"):
        open_sources(f"{nobody}/*.h5ad")


def test_an_address_as_long_as_signed_ones_are_is_fetched(make_adata, write_as, server):
    url, folder, _ = server
    write_as(make_adata(), folder, "csr.h5ad")
    cells = open_cells(f"{url}/cells-csr.h5ad?signature={'a/b+' * 200}")
    assert (cells.name, cells.n_obs) == ("cells-csr", 150)


def test_a_page_in_place_of_a_file_is_refused(server):
    url, folder, _ = server
    (folder / "cells.h5ad").write_text("<html>please log in</html>")
    with pytest.raises(DataError, match=rf"{url}/cells\.h5ad is not an \.h5ad file"):
        open_cells(f"{url}/cells.h5ad")


def test_a_zarr_at_a_url_with_a_part_missing_is_refused(make_adata, write_as, server):
    url, folder, _ = server
    path = write_as(make_adata(), folder, "csr.zarr")
    (path / "X/indices/c/0").unlink()
    with pytest.raises(DataError, match=r"damaged.*X/indices/c/0 is missing"):
        whole(open_cells(f"{url}/{path.name}"))


@pytest.mark.parametrize(("url", "package"), [("s3://a/b.h5ad", "s3fs"), ("gs://a/b.h5ad", "gcsfs")])
def test_a_missing_driver_is_named(url, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'polygene\[remote\]'"):
        open_sources("https://host/b.h5ad")
    for one in (url, url.replace("h5ad", "zarr"), url.replace("b.", "*.")):
        with pytest.raises(DataError, match=f"pip install '{package}'"):
            open_sources(one)
    assert known_implementations[url[:2]]["class"].startswith(package)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(DataError, match=r"teleport://b\.h5ad cannot be read: .*teleport"):
        open_cells("teleport://b.h5ad")


def test_what_was_fetched_is_gone_with_the_process(make_adata, write_as, server):
    url, folder, _ = server
    write_as(make_adata(), folder, "csc.h5ad")
    code = f"""
from polygene.io.read import open_cells
cells = open_cells("{url}/cells-csc.h5ad")
print(len(list(cells.chunks())), cells.path, cells._transposed.folder, sep="|")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n_chunks, *left = done.stdout.strip().split("|")
    assert n_chunks == "1"
    assert not any(Path(path).exists() for path in left)


def test_paths_and_globs_are_expanded_each_once(tmp_path):
    for name in ("b.h5ad", "a.h5ad", "c.txt"):
        (tmp_path / name).touch()
    found = expand_paths([tmp_path / "b.h5ad", str(tmp_path / "*.h5ad")])
    assert [path.name for path in found] == ["b.h5ad", "a.h5ad"]
    assert expand_paths(tmp_path / "c.txt") == [tmp_path / "c.txt"]
    with pytest.raises(DataError, match=r"there is no file .*none"):
        expand_paths(str(tmp_path / "none*.h5ad"))


def test_braces_are_those_of_the_shell(tmp_path):
    for name in ("s_0.h5ad", "s_1.h5ad", "s_2.h5ad", "t_01.h5ad", "t_02.h5ad", "lung.h5ad", "gut.zarr"):
        (tmp_path / name).touch()
    named = {
        "s_{0..2}.h5ad": ["s_0.h5ad", "s_1.h5ad", "s_2.h5ad"],
        "s_{2..1}.h5ad": ["s_2.h5ad", "s_1.h5ad"],
        "t_{01..02}.h5ad": ["t_01.h5ad", "t_02.h5ad"],
        "{lung,s_0}.h5ad": ["lung.h5ad", "s_0.h5ad"],
        "{lung.h5ad,gut.*}": ["lung.h5ad", "gut.zarr"],
    }
    for pattern, names in named.items():
        assert [path.name for path in expand_paths(str(tmp_path / pattern))] == names, pattern
    with pytest.raises(DataError, match=r"there is no file .*s_3\.h5ad"):
        expand_paths(str(tmp_path / "s_{0..3}.h5ad"))


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path):
    for name in ("cells[1].h5ad", "cells{a,b}.h5ad"):
        (tmp_path / name).touch()
        assert expand_paths(tmp_path / name) == [tmp_path / name]


def test_globs_and_braces_name_urls(make_adata, write_as, memory, server):
    for name in ("a.h5ad", "b.h5ad", "c.txt"):
        memory.pipe(f"/atlas/{name}", b"1")
    assert expand_paths("memory://atlas/*.h5ad") == ["memory:///atlas/a.h5ad", "memory:///atlas/b.h5ad"]
    assert expand_paths("s3://atlas/{0..1}.h5ad") == ["s3://atlas/0.h5ad", "s3://atlas/1.h5ad"]
    with pytest.raises(DataError, match="there is no file 'memory://none"):
        expand_paths("memory://none/*.h5ad")
    url, folder, _ = server
    path = write_as(make_adata(), folder, "csr.h5ad")
    path.rename(folder / "shard_1.h5ad")
    assert [cells.label for cells in open_sources(f"{url}/shard_*.h5ad")] == [f"{url}/shard_1.h5ad"]


def test_a_url_survives_being_made_a_path():
    assert parse_path(Path("https://host/a/b.h5ad")) == "https://host/a/b.h5ad"
    assert parse_path("https://host/b.h5ad?token=a/b") == "https://host/b.h5ad?token=a/b"
    assert parse_path("file:///data/b.h5ad") == Path("/data/b.h5ad")
    assert parse_path("~/b.h5ad") == Path.home() / "b.h5ad"
    assert parse_path("data/b.h5ad") == Path("data/b.h5ad")
