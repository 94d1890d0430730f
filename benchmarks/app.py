"""Memory and time of the local page as the cells grow, beside the command line.

    python -m benchmarks.app                                # 10 thousand, 100 thousand and 500 thousand cells
    python -m benchmarks.app --sizes 500000 --only page     # beside what was kept of others

Files are made by drawing the cells that ship with PolyGene with replacement, each with 70 to 100 % of its molecules
(13,656 genes, some 750 of them expressed in a cell), written block by block, and removed again. For each, `polygene
annotate` runs as a process of its own; then the server is started, opens the file by its path, begins to predict, is
cancelled, predicts, draws a new map, shows a gene, describes and asks about a thousand cells, and writes the table.
All on one thread. Memory is the sum of the resident memory of the server and its processes, looked at ten times a
second: the peak of each step, and what is there a second after the cancel. Seconds are on the clock; processor seconds,
which other work on the machine disturbs less, are those of the server and its processes. Frames a second are those of a
headless Chromium with its software renderer while the map is dragged and zoomed, the best of three times three seconds.
The last line is one JSON object.
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
from datetime import UTC, datetime
from http.cookiejar import CookieJar
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.shared import command
from benchmarks.speed.memory import apart, make_cells, measured

MODEL, COVERAGE = "polygene-512", 0.9
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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

    def post(self, path: str, body: Any = None) -> Any:
        """Send JSON or bytes, and read JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        headers = {"content-type": "application/json", "x-polygene": "1", "origin": self._address}
        with self._open(urllib.request.Request(f"{self._address}/api/{path}", content, headers)) as answer:
            return json.load(answer)

    def job(self, path: str, body: Any = None) -> None:
        """Do a job to its end."""
        with self._open(self._address + "/api/events") as events:
            number = self.post(path, body)["id"]
            for line in events:
                message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if message.get("id") == number and message["kind"] in ("done", "failed"):
                    break
        if message["kind"] == "failed":
            sys.exit(f"{path}: {message['text']}")


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the page, on a port that is free."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TMPDIR": str(folder)}
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


class Watch(threading.Thread):
    """Looks at a process and its children ten times a second: `peak_mb` is the largest sum since it was last set to 0.

    Processor time of children that have ended is that of the process which waited for them.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self.peak_mb = pid, 0.0
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        while now := self.resident_mb():
            self.peak_mb = max(self.peak_mb, now)
            time.sleep(0.1)

    def resident_mb(self) -> float:
        """Return what the processes have in memory, in MB (10⁶ bytes)."""
        return sum(map(resident_mb, family(self._pid)))

    @contextmanager
    def step(self, name: str, found: dict[str, float | None]) -> Iterator[None]:
        """Measure what is done in the block."""
        self.peak_mb, started, before = 0.0, time.perf_counter(), self.processor_s()
        yield
        found[f"{name}_s"] = time.perf_counter() - started
        found[f"{name}_processor_s"] = self.processor_s() - before
        found[f"{name}_peak_mb"] = max(self.peak_mb, self.resident_mb())

    def processor_s(self) -> float:
        """Return the processor time so far."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in family(self._pid)]
        return sum(int(ticks) for stat in stats for ticks in stat[11:15]) / os.sysconf("SC_CLK_TCK")


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
    if CHROMIUM is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_cookies([{"name": one.name, "value": one.value, "url": address} for one in page.cookies])
        view = context.new_page()
        view.goto(address)
        view.wait_for_selector("#legend li", timeout=120_000)
        view.wait_for_timeout(2_000)
        rate = max(float(view.evaluate(DRAG, 3)) for _ in range(3))
        browser.close()
    return round(rate, 1)


def line(cells: Path, with_frames: bool) -> dict[str, float | None]:  # noqa: ARG001 as `page`
    """Measure the command line."""
    out = cells.with_name("line.h5ad")
    found = measured("annotate", str(cells), "--out", str(out), "--coverage", str(COVERAGE))
    out.unlink()
    return {"s": found["wall_s"], "processor_s": found["cpu_s"], "peak_mb": found["peak_mb"]}


def page(cells: Path, with_frames: bool) -> dict[str, float | None]:
    """Measure the page."""
    found: dict[str, float | None] = {}
    with server(cells.parent) as (address, process):
        watch, page = Watch(process.pid), Page(address)
        with watch.step("open", found):
            page.job("open", {"path": str(cells)})
        n_cells = page.get("state")["state"]["file"]["cells"]
        found["opened_mb"] = watch.resident_mb()
        question = {"model": MODEL, "coverage": COVERAGE}
        page.post("run", question)
        while not page.get("state")["progress"].get("n"):
            time.sleep(0.1)
        found["before_cancel_mb"] = watch.resident_mb()
        page.post("cancel")
        found["cancelled_mb"] = watch.resident_mb()
        rows = b"".join(row.to_bytes(4, "little") for row in range(0, n_cells, max(1, n_cells // 1_000)))
        steps: dict[str, tuple[str, Any]] = {
            "predict": ("run", question),
            "map": ("draw", {}),
            "gene": ("gene", {"name": "LYZ"}),
            "selection": ("selection", rows),
            "what_if": ("what-if", {"changes": {"disease": "COVID-19"}}),
            "csv": ("take/csv", {}),
            "report": ("take/html", {}),
        }
        for name, (path, body) in steps.items():
            with watch.step(name, found):
                page.job(path, body)
            print(f"  {name}: {found[f'{name}_s']:.1f} s, {found[f'{name}_peak_mb']:,.0f} MB", flush=True)
        found["peak_mb"] = max(value for name, value in found.items() if name.endswith("_peak_mb") and value)
        found["frames_per_s"] = frames(address, page) if with_frames else None
    return found


PARTS = {"line": line, "page": page}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 500_000], metavar="CELLS")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; what was kept of the other stays")
    parser.add_argument("--folder", type=Path, help="where files are made (default: a temporary folder)")
    parser.add_argument("--no-frames", dest="frames", action="store_false", help="without a browser")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every size, and return its numbers beside those of other sizes that were kept."""
    kept = command.RESULTS / "app.json"
    sizes: dict[str, Any] = json.loads(kept.read_text("utf-8"))["sizes"] if kept.exists() and not options.smoke else {}
    frames_too = options.frames and not options.smoke
    console, source = Console(width=160), Path(str(files("polygene.io") / "pbmc.h5ad"))
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for n_cells in [60] if options.smoke else options.sizes:
            cells = Path(scratch) / "cells.h5ad"
            apart(make_cells, source, cells, n_cells, options.seed, 0.7)
            of_size = sizes.setdefault(str(n_cells), {"file_mb": round(cells.stat().st_size / 1e6)})
            for name in options.only or PARTS:
                load = round(os.getloadavg()[0], 1)
                found = {key: value and round(value, 1) for key, value in PARTS[name](cells, frames_too).items()}
                of_size[name] = {"date": datetime.now(UTC).date().isoformat(), "load": load, **found}
                console.print(f"{n_cells:,} cells, {name}: {of_size[name]}")
            cells.unlink()
    return {"sizes": {n: sizes[n] for n in sorted(sizes, key=int)}}


def main(argv: Sequence[str] | None = None) -> None:
    command.run("app", __doc__, measure, add_options, threads=None, argv=argv)


if __name__ == "__main__":
    main()
