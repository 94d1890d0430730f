"""Paths of cells: globs, braces and URLs; a URL is downloaded once, into a temporary folder."""

import errno
import glob
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
from fsspec.registry import known_implementations

from polygene.errors import DataError, PolyGeneError
from polygene.io.soma import is_soma
from polygene.runtime import extras
from polygene.runtime.progress import progress
from polygene.runtime.scratch import scratch_folder

PathOrURL: TypeAlias = str | Path  # a URL is a str, what is on this machine a Path

PATIENCE = 60  # seconds without a byte before a download is given up

_URL = re.compile(r"^([a-z][a-z0-9+.:]+):/+(.*)", re.DOTALL)
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def expand_paths(patterns: PathOrURL | Iterable[PathOrURL]) -> list[PathOrURL]:
    """List the files that paths, URLs, globs and braces name, each once: globs sorted, the rest in the order given.

    Braces are those of the shell: `shard_{0..46}.h5ad`, `{lung,gut}.h5ad`. URLs without `*` are not looked up.
    """
    found: dict[PathOrURL, None] = {}
    for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
        if is_soma(pattern):
            found[pattern] = None
            continue
        exact = parse_path(pattern)
        if isinstance(exact, Path) and exact.exists():
            found[exact] = None
            continue
        for one in _expand_braces(str(exact)):
            matches = _matches(parse_path(one))
            if not matches:
                msg = f"there is no file {one!r}; give paths or URLs of cells, or globs such as 'atlas/*.h5ad'"
                raise DataError(msg)
            found.update(dict.fromkeys(matches))
    return list(found)


def parse_path(place: PathOrURL) -> PathOrURL:
    """Return a URL as str (with the slash that Path takes from it), all else, file:// included, as Path."""
    url = _URL.match(str(place))
    if not url:
        return Path(place).expanduser()
    return Path("/" + url[2]) if url[1] == "file" else f"{url[1]}://{url[2]}"


def name_of(place: PathOrURL) -> str:
    """Return the last part of a path or URL, without the query of the URL."""
    return Path(str(place).partition("?")[0] if isinstance(place, str) else place).name


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it; the error names a driver that is not installed."""
    protocol, options = url.partition(":")[0], url_options(url)
    try:
        return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        driver = known_implementations[protocol]["class"].partition(".")[0]
        package = driver if driver != "fsspec" else f"fsspec[{protocol}]"
        msg = f"{url} cannot be read without the package {package}: pip install '{package}'"
        raise DataError(msg) from error
    except ValueError as error:
        msg = f"{url} cannot be read: {error}. Download it, and give its path."
        raise DataError(msg) from error
    except OSError as error:  # some connect at once
        msg = f"{url} cannot be reached: {_reason(error)}"
        raise DataError(msg) from error


def url_options(url: str) -> dict[str, Any]:
    """Return options of fsspec for a URL: downloads may last, and sizes are those of the file, not of its gzip."""
    if not url.startswith(("http://", "https://")):
        return {}
    aiohttp = extras.load("aiohttp")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)  # total: 5 minutes, else
    return {"client_kwargs": {"timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}


def local_copy(url: str, parts: Collection[str] = ()) -> Path:
    """Download a file, or the files of a folder whose names hold one of `parts`; once a process, removed at its end.

    A folder is known by its listing, on a web server by the slash at its end. Of a download that stopped half-way
    nothing is kept, and the message gives the bytes.
    """
    if url not in _copies:
        files, path = filesystem(url)
        folder = Path(tempfile.mkdtemp(dir=scratch_folder()))
        try:
            is_folder = url.endswith("/") if url.startswith("http") else files.isdir(path)
            copy = folder / (name_of(url) or "cells")
            if is_folder:
                copy.mkdir()
                for one in files.ls(path, detail=False):
                    if any(part in name_of(str(one)) for part in parts):
                        _fetch(files, str(one), copy / name_of(str(one)), url)
            else:
                _fetch(files, path, copy, url)
            _copies[url] = copy
        except FileNotFoundError as error:
            msg = f"there is nothing at {url}; look at the address once more"
            raise DataError(msg) from error
        except PolyGeneError:
            raise
        except Exception as error:  # each file system has errors of its own
            msg = f"{url} cannot be reached: {_reason(error)}"
            raise DataError(msg) from error
        finally:
            if url not in _copies:
                shutil.rmtree(folder)
    return _copies[url]


_copies: dict[str, Path] = {}


def forget(url: str) -> None:
    """Remove the copy of what came damaged, so that it is fetched anew."""
    if url in _copies:
        shutil.rmtree(_copies.pop(url).parent, ignore_errors=True)


def _fetch(files: Any, path: str, target: Path, url: str) -> None:
    callback = fsspec.Callback()
    stopped: Exception | None = None
    try:
        with progress(None, done=f"fetched {name_of(path)}:", unit="MB") as advance:
            callback.hooks["bar"] = lambda size, value, **_: advance(
                value / 1e6 - advance.n, total=size / 1e6 if size else None
            )
            files.get_file(path, str(target), callback=callback)
    except Exception as error:
        if not target.exists() or isinstance(error, FileNotFoundError):  # it never began
            raise
        stopped = error
    n_bytes = target.stat().st_size if target.exists() else 0
    # of http the length was checked as it came; where the server packed the file it is not that of the file
    is_short = not url.startswith("http") and callback.size is not None and n_bytes != callback.size
    if stopped or is_short:
        size = "an unknown number of" if callback.size is None else f"{callback.size:,}"
        why = _reason(stopped) if stopped else "the connection closed"
        is_full = isinstance(stopped, OSError) and stopped.errno == errno.ENOSPC
        hint = "Set TMPDIR to a folder with room." if is_full else "Try again."
        msg = f"{url} stopped after {n_bytes:,} of {size} bytes, and nothing was kept ({why}). {hint}"
        raise DataError(msg) from stopped


def _reason(error: Exception) -> str:
    """Give the reason in one line, of errors that have none in words too."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"nothing came for {PATIENCE} seconds"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _expand_braces(pattern: str) -> list[str]:
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    first, last, words = found.groups()
    if words is None:
        width = len(first) if first.startswith("0") else 0  # {00..12} counts 00, 01, …
        step = 1 if int(last) >= int(first) else -1
        parts = [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]
    else:
        parts = words.split(",")
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [whole for part in parts for whole in _expand_braces(head + part + tail)]


def _matches(pattern: PathOrURL) -> list[PathOrURL]:
    if isinstance(pattern, Path):
        globbed = sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207 (Path.glob refuses absolute patterns)
        return [pattern] if pattern.exists() else [Path(match) for match in globbed]
    if "*" not in pattern:
        return [pattern]
    files, path = filesystem(pattern)
    try:
        return [files.unstrip_protocol(match) for match in sorted(files.glob(path))]
    except Exception as error:  # each file system has errors of its own
        msg = f"{pattern} could not be listed ({error}); name the files one by one, for example with braces"
        raise DataError(msg) from error
