"""Memory and time of the local page as the cells grow, beside the command line.

    python -m benchmarks.app                                # 10 thousand, 100 thousand and 500 thousand cells
    python -m benchmarks.app --sizes 10000 --no-frames

Files are made by drawing the cells that ship with PolyGene with replacement (13,656 genes, some 800 of them
expressed in a cell), written block by block, and removed again. For each, `polygene annotate` runs as a process of
its own; then the server is started, opens the file by its path, predicts, draws a new map, shows a gene, and
describes and asks about a thousand cells. Peak memory is the largest sum of the resident memory of the server and
its process, looked at ten times a second. Frames a second are those of a headless Chromium with its software
renderer while the map is dragged and zoomed for three seconds. The last line is one JSON object.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.cookiejar import CookieJar
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.shared import command
from benchmarks.speed.memory import apart, make_cells, measured

MODEL = "polygene-512"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
DRAG = """async (seconds) => {
  const points = document.getElementById("points"), box = points.getBoundingClientRect(), times = [];
  const at = (clientX, clientY) => ({ pointerId: 1, clientX, clientY, bubbles: true, cancelable: true });
  const send = (kind, x, y) => points.dispatchEvent(new PointerEvent(kind, at(x, y)));
  points.setPointerCapture = () => {};
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2], begun = performance.now();
  send("pointerdown", x, y);
  await new Promise((done) => {
    const frame = (now) => {
      times.push(now);
      const t = (now - begun) / 1000;
      if (t > seconds) { send("pointerup", x, y); done(); return; }
      send("pointermove", x + 80 * Math.sin(3 * t), y + 60 * Math.cos(2 * t));
      points.dispatchEvent(new WheelEvent("wheel", { ...at(x, y), deltaY: 20 * Math.sin(2 * t) }));
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  });
  return (times.length - 1) / ((times[times.length - 1] - times[0]) / 1000);
}"""


class Page:
    """Asks the server what the page asks it."""

    def __init__(self, address: str) -> None:
        self._address, cookies = address.rstrip("/"), urllib.request.HTTPCookieProcessor(CookieJar())
        self._open = urllib.request.build_opener(cookies).open
        self._open(address).read()
        self.cookies = cookies.cookiejar

    def get(self, path: str) -> Any:
        """Read JSON."""
        with self._open(f"{self._address}/api/{path}") as answer:
            return json.load(answer)

    def job(self, path: str, body: Any = None, *, key: str = "id") -> float:
        """Do a job to its end, and return the seconds that it took."""
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        headers = {"content-type": "application/json", "x-polygene": "1", "origin": self._address}
        started = time.perf_counter()
        request = urllib.request.Request(f"{self._address}/api/{path}", content, headers)
        with self._open(self._address + "/api/events") as events:
            with self._open(request) as answer:
                number = json.load(answer)[key]
            for line in events:
                message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if message.get("id") == number and message["kind"] in ("done", "failed"):
                    break
        if message["kind"] == "failed":
            sys.exit(f"{path}: {message['text']}")
        return time.perf_counter() - started


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the page, on a port that is free."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    words = [sys.executable, "-m", "polygene", "app", "--no-browser", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        found = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
        if not found:
            sys.exit("polygene app did not start")
        yield found[0], process
    finally:
        process.terminate()
        process.wait()


class Memory(threading.Thread):
    """Looks at the resident memory of a process and its children, ten times a second; `peak_mb` is the largest sum."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self.peak_mb, self.goes_on = pid, 0.0, True

    def run(self) -> None:
        """Look until told to stop."""
        while self.goes_on:
            self.peak_mb = max(self.peak_mb, sum(map(resident_mb, family(self._pid))))
            time.sleep(0.1)


def family(pid: int) -> list[int]:
    """Return a process and those that it started."""
    children: list[str] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):  # a process belongs to the thread that started it
        try:
            children += thread.read_text().split()
        except OSError:  # the thread has ended
            continue
    return [pid, *(one for child in children for one in family(int(child)))]


def resident_mb(pid: int) -> float:
    """Return what a process has in memory, in MB (10⁶ bytes); 0 for one that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def frames(address: str, page: Page) -> float | None:
    """Return the frames a second of a map that is dragged and zoomed; None without Chromium."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_cookies([{"name": one.name, "value": one.value, "url": address} for one in page.cookies])
        view = context.new_page()
        view.goto(address)
        view.wait_for_selector("#legend li", timeout=120_000)
        view.wait_for_timeout(2_000)
        rate = float(view.evaluate(DRAG, 3))
        browser.close()
    return round(rate, 1)


def run(folder: Path, n_cells: int, options: argparse.Namespace) -> dict[str, float | None]:
    """Make a file, and measure the command line and the page on it."""
    cells = folder / "cells.h5ad"
    apart(make_cells, Path(str(files("polygene.io") / "pbmc.h5ad")), cells, n_cells, options.seed)
    found: dict[str, float | None] = {"file_mb": round(cells.stat().st_size / 1e6)}
    line = measured("annotate", str(cells), "--out", str(folder / "line.h5ad"), "--coverage", "0.9")
    found |= {"command_line_s": line["wall_s"], "command_line_peak_mb": line["peak_mb"]}
    (folder / "line.h5ad").unlink()
    with server(folder) as (address, process):
        memory = Memory(process.pid)
        memory.start()
        page = Page(address)
        found["read_s"] = page.job("open", {"path": str(cells)})
        found["predicted_and_map_s"] = page.job("run", {"model": MODEL, "coverage": 0.9, "plane": None})
        found["gene_s"] = page.job("gene", {"name": "LYZ"})
        rows = b"".join(row.to_bytes(4, "little") for row in range(0, n_cells, max(1, n_cells // 1_000)))
        found["selected_s"] = page.job("selection", rows)
        found["what_if_s"] = page.job("what-if", {"changes": {"disease": "COVID-19"}})
        memory.goes_on = False
        found["peak_mb"] = memory.peak_mb
        found["frames_per_s"] = frames(address, page) if options.frames else None
    cells.unlink()
    return {name: value if value is None else round(value, 1) for name, value in found.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 500_000], metavar="CELLS")
    parser.add_argument("--folder", type=Path, help="where files are made (default: a temporary folder)")
    parser.add_argument("--no-frames", dest="frames", action="store_false", help="without a browser")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every size, print the table, and return its numbers."""
    sizes = [60] if options.smoke else options.sizes
    options.frames = options.frames and not options.smoke
    console, of_size = Console(width=160), {}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for n_cells in sizes:
            of_size[n_cells] = run(Path(scratch), n_cells, options)
            console.print(f"{n_cells:,} cells: {of_size[n_cells]}")
    table = Table(title="the local page")
    names = list(of_size[sizes[0]])
    for column in ("cells", *names):
        table.add_column(column.replace("_", " "), justify="right")
    for n_cells, found in of_size.items():
        table.add_row(f"{n_cells:,}", *("none" if found[name] is None else f"{found[name]:,.1f}" for name in names))
    console.print(table)
    return {name: {n_cells: found[name] for n_cells, found in of_size.items()} for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    command.run("app", __doc__, measure, add_options, threads=None, argv=argv)


if __name__ == "__main__":
    main()
