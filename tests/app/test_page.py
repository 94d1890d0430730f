"""The page in a real browser: headless Chromium, its software renderer, and no network but the server."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

import polygene as pg
from polygene import app as app_room
from polygene.app import columns, incoming

FOUND = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
LONG = 300_000  # milliseconds: a busy machine takes minutes for what takes seconds
expect.set_options(timeout=LONG)
SIZES = [(1280, 800), (390, 844)]
STYLE = (Path(app_room.__file__).parent / "static" / "style.css").read_text(encoding="utf-8")

browser_test = pytest.mark.skipif(FOUND is None, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`polygene app`, in a process of its own."""
    folder = tmp_path_factory.mktemp("server")
    words = [sys.executable, "-m", "polygene", "app", "--no-browser", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            yield re.search(r"http://\S+", server.stdout.readline())[0]
        finally:
            server.terminate()
            log = server.communicate(timeout=60)[1]
    assert not list(folder.glob("polygene-app-*")), "the server removes all that was uploaded"
    assert "Traceback" not in log


@pytest.fixture
def by_hand(app: Any) -> Iterator[str]:
    """The address of a server that computes nothing: a test says what the workers in `idle` say."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=FOUND, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def shut(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shut the pages of a test, since a server has eight at most."""
    yield
    if "browser" in request.fixturenames:
        for context in request.getfixturevalue("browser").contexts:
            context.close()


def opened(browser: Browser, address: str, *, size: tuple[int, int] = SIZES[0], theme: str = "light") -> Page:
    """Open the page; what it asks of another host, and what it reports as an error, is kept in `page.wrong`."""
    context: BrowserContext = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=theme, accept_downloads=True
    )
    wrong: list[str] = []

    def only_here(route: Any) -> None:
        if route.request.url.startswith((address, "blob:", "data:")):
            route.continue_()
        else:
            wrong.append(route.request.url)
            route.abort()

    context.route("**/*", only_here)
    page = context.new_page()
    page.set_default_timeout(LONG)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.wrong = wrong  # type: ignore[attr-defined]
    page.goto(address)
    expect(page.locator("#open-view")).to_be_visible()
    return page


def drop(page: Page, name: str, content: bytes) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, text]) => {
          const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), all = new DataTransfer();
          all.items.add(new File([bytes], name));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: all, bubbles: true, cancelable: true }));
        }""",
        [name, base64.b64encode(content).decode()],
    )


def cells(n_cells: int, folder: Path) -> bytes:
    """Bytes of some of the cells of the example, with a label that looks like HTML."""
    adata = pg.datasets.pbmc()[:n_cells].copy()
    adata.obs["remark"] = ["<img src=x onerror=alert(1)>" if i % 2 else "fine" for i in range(n_cells)]
    adata.write_h5ad(folder / "mine.h5ad")
    return (folder / "mine.h5ad").read_bytes()


def example(page: Page) -> None:
    """Open and annotate the cells that ship with PolyGene."""
    page.click("#example")
    page.click("#run")
    expect(page.locator("#look-view")).to_be_visible(timeout=LONG)
    expect(page.locator("#legend li").first).to_be_visible(timeout=LONG)


FILE = {
    "name": "mine.h5ad", "cells": 3, "genes": 9, "scale": "counts", "example": False, "notes": [],
    "maps": ["X_umap"], "columns": [], "layers": [], "layer": None,
    "models": [{"name": "polygene-512", "measured": 9, "panel": 512, "lowest_share_of_macro_f1": 1}],
    "phenotypes": [
        {"name": name, "column": name, "in_file": False, "labels": [], "n_labels": 0, "known": known}
        for name, known in (("cell_type", ["B cell", "T cell"]), ("sex", ["female", "male"]))
    ],
}  # fmt: skip
RUN = {"options": {"model": "polygene-512"}, "columns": [], "predict": ["cell_type"], "notes": []}
OBS = {"polygene_cell_type": ["T cell", "B cell", "T cell"], "cell_type": ["T", "B", "T"]}
EFFECTS = {"kind": "expression", "cells": 2, "donors": 0, "taken": [], "down": []}
EFFECTS["up"] = [{"gene": "CD74", "before": 1, "change": 0.5, "low": None, "high": None, "half": 0.2}]


def chosen(page: Page, idle: list[Any], **facts: Any) -> None:
    """Open a file by hand."""
    with page.expect_response("**/api/open"):
        page.click("#example")
    idle[-1].say("state", state={"file": FILE | facts})
    idle[-1].say("done", result={})
    expect(page.locator("#run")).to_be_visible()


def predicted(page: Page, idle: list[Any], **facts: Any) -> None:
    """Predict by hand, up to where the page has asked for the map."""
    with page.expect_response("**/api/run"):
        page.click("#run")
    with page.expect_response("**/api/draw"):
        idle[-1].say("state", state={"run": RUN | facts})
        idle[-1].say("done", result={})


def looked(
    page: Page, idle: list[Any], xy: Any = None, *, drawn: bool = True, file: Any = (), run: Any = (), **obs: Any
) -> None:
    """Predict these columns by hand, and with `drawn` put the cells on a map; by default three cells."""
    obs = obs or OBS
    n, folder = len(next(iter(obs.values()))), idle[-1].folder
    chosen(page, idle, cells=n, **dict(file))
    (folder / "columns").mkdir()
    described = []
    for name, values in obs.items():
        facts, numbers = columns.packed(pd.Series(values))
        columns.write(incoming.column_file(folder / "columns", name), facts, numbers)
        described.append({"name": name, "kind": facts["kind"], "n_labels": len(facts.get("labels", ()))})
    (folder / "names.json").write_text(json.dumps([f"cell{i}" for i in range(n)]))
    (folder / "genes.json").write_text(json.dumps({"all": ["CD74", "MS4A1"], "panel": ["CD74", "MS4A1"]}))
    predicted(page, idle, columns=described, **dict(run))
    if drawn:
        xy = [[np.cos(i), np.sin(i)] for i in range(n)] if xy is None else xy
        (folder / "map.bin").write_bytes(np.asarray(xy, np.float32).tobytes())
        idle[-1].say("state", state={"map": "the map is X_umap of the file"})
        idle[-1].say("done", result={})
    expect(page.locator("#legend li").first).to_be_visible()


def picked(page: Page, idle: list[Any], label: str, *more: Any) -> None:
    """Select the cells of a label by the legend, and say what they are."""
    page.click("#tab-look")
    with page.expect_response("**/api/selection"):
        page.locator("#legend button", has_text=label).first.click()
    share = {"cells": 1, "phenotypes": [{"name": "cell_type", "labels": [[label, 1.0]]}, *more], "unsure": 0.0}
    idle[-1].say("done", result={**share, "by_sets": True, "of": "cell_type"})
    idle[-1].say("done", result={"genes": [], "why": "too few cells"})
    expect(page.locator("#selected")).to_contain_text("too few cells")


def asked(page: Page) -> None:
    """Ask what if the selected cells were of a female."""
    page.click("#tab-what-if")
    page.select_option("#change-name", "sex")
    page.select_option("#change-label", "female")
    with page.expect_response("**/api/what-if"):
        page.click("#change-form button")


def saved(page: Page, what: str) -> bytes:
    with page.expect_download(timeout=LONG) as download:
        page.click(f'[data-take="{what}"]')
    return Path(download.value.path()).read_bytes()


@browser_test
@pytest.mark.slow
def test_from_a_dropped_file_to_what_is_taken_away(browser: Browser, address: str, tmp_path: Path) -> None:
    page = opened(browser, address)
    drop(page, "mine.h5ad", cells(150, tmp_path))
    expect(page.locator("#choose-title")).to_have_text("mine.h5ad")
    expect(page.locator("#facts")).to_contain_text("150")
    expect(page.locator("#facts")).to_contain_text("406 of 512")
    page.click("#run")
    expect(page.locator("#legend")).to_contain_text("monocyte", timeout=LONG)
    expect(page.locator("#map-about")).to_contain_text("X_umap of the file")

    page.select_option("#colour", "remark")
    expect(page.locator("#legend")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("#legend img").count() == 0
    page.fill("#gene", "LYZ")
    page.click("#gene-form button")
    expect(page.locator("#legend-about")).to_contain_text("LYZ: log1p counts per 10,000", timeout=LONG)
    page.select_option("#colour", "polygene_cell_type_probability")
    expect(page.locator("#ramp")).to_be_visible()

    page.click("#tool-lasso")
    box = page.locator("#points").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for x, y in ((0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.01)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
    page.mouse.up()
    expect(page.locator("#n-selected")).to_have_text("150")
    expect(page.locator("#selected")).to_contain_text("of all cells", timeout=LONG)
    page.click("#tab-look")
    page.select_option("#colour", "author_label")
    page.locator("#legend button", has_text="B cell").click()
    page.click("#tab-selected")
    expect(page.locator("#selected")).to_contain_text("Genes higher here", timeout=LONG)
    expect(page.locator("#selected table")).to_contain_text("CD74", timeout=LONG)

    page.click("#tab-what-if")
    page.select_option("#change-name", "disease")
    page.select_option("#change-label", "COVID-19")
    page.click("#change-form button")
    expect(page.locator("#what-if-found")).to_contain_text("If disease were COVID-19", timeout=LONG)
    expect(page.locator("#what-if")).to_contain_text("Association, not mechanism")
    page.fill("#knock-gene", "CD79A")
    page.click("#knock-form button")
    expect(page.locator("#what-if-found h2")).to_have_text("CD79A removed", timeout=LONG)
    page.fill("#knock-gene", "NOPE")
    page.click("#knock-form button")
    expect(page.locator("#alert")).to_contain_text("'NOPE' is not among", timeout=LONG)

    page.click("#tab-table")
    page.fill("#filter", "platelet")
    expect(page.locator("#table-body tr").first).to_contain_text("platelet")
    page.fill("#filter", "")
    page.locator("#table-head button", has_text="probability").click()
    page.wait_for_timeout(400)
    shown = [float(text) for text in page.locator("#table-body td:nth-child(3)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)

    page.click("#tab-take")
    assert saved(page, "h5ad").startswith(b"\x89HDF")
    assert saved(page, "csv").startswith(b"cell,polygene_")
    assert saved(page, "parquet").startswith(b"PAR1")
    assert b"<h1>mine.h5ad</h1>" in saved(page, "html")
    assert saved(page, "png").startswith(b"\x89PNG")
    assert saved(page, "svg").startswith(b"<svg")
    assert len(saved(page, "cells").split()) > 5
    expect(page.locator("#python")).to_contain_text("pg.tl.annotate(adata, 'polygene-512'")
    expect(page.locator("#python")).to_contain_text("pg.tl.perturb(selected")
    assert page.wrong == []  # type: ignore[attr-defined]

    page.reload()
    expect(page.locator("#legend")).to_contain_text("monocyte", timeout=LONG)
    page.on("dialog", lambda one: one.accept())
    page.click("#another")
    expect(page.locator("#open-view")).to_be_visible()


@browser_test
def test_an_answer_that_is_late_does_not_take_the_map_away(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page, late = opened(browser, by_hand), list[Route]()
    chosen(page, idle)
    page.route("**/api/state", lambda route: late.append(route))
    predicted(page, idle)
    idle[-1].say("state", state={"map": "the map is X_umap of the file"})
    expect(page.locator("#map-about")).to_contain_text("X_umap of the file")
    for route in late:  # the state as it was before there was a map
        route.fulfill(json={"state": {"file": FILE, "run": RUN, "map": None}, "progress": None, "last": 0})
    page.unroute("**/api/state")
    page.evaluate("() => fetch('/api/state').then((answer) => answer.json())")  # by then the late one has been read
    idle[-1].say("done", result={})
    assert "X_umap of the file" in page.locator("#map-about").inner_text()


@browser_test
def test_the_heading_of_an_answer_says_what_was_asked(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page = opened(browser, by_hand)
    looked(page, idle)
    picked(page, idle, "T cell")
    asked(page)
    page.select_option("#change-name", "cell_type")
    idle[-1].say("done", result=EFFECTS)
    expect(page.locator("#what-if-found h2")).to_have_text("If sex were female")


@browser_test
def test_what_is_warned_of_while_predicting_is_shown(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page, few = opened(browser, by_hand), "93 of the 512 genes are measured"
    looked(page, idle, file={"notes": [few]}, run={"notes": [few, "sex: no gene tells the sexes apart"]})
    expect(page.locator("#run-warnings")).to_have_text("sex: no gene tells the sexes apart")


@browser_test
def test_one_age_is_no_range_of_ages(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page = opened(browser, by_hand)
    looked(page, idle)
    picked(page, idle, "B cell", {"name": "age", "labels": [], "years": [55.1, 55.1, 55.1]})
    expect(page.locator("#selected")).to_contain_text("55 years; off by 8 to 15 years on a new study.")
    picked(page, idle, "T cell", {"name": "age", "labels": [], "years": [55.1, 40.2, 60.3]})
    expect(page.locator("#selected")).to_contain_text("55 years at the median, 90 % of the cells between 40 and 60;")


@browser_test
def test_an_answer_goes_when_other_cells_are_selected(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page = opened(browser, by_hand)
    looked(page, idle)
    picked(page, idle, "T cell")
    asked(page)
    idle[-1].say("done", result=EFFECTS)
    expect(page.locator("#what-if-found")).to_contain_text("CD74")
    picked(page, idle, "B cell")
    expect(page.locator("#what-if-found")).to_be_empty()
    asked(page)  # and one that comes late does not come back
    page.click("#tab-selected")
    page.locator("#selected button", has_text="Clear").click()
    idle[-1].say("done", result=EFFECTS)
    page.click("#tab-take")
    with page.expect_response("**/api/take/csv"):
        page.click('[data-take="csv"]')
    idle[-1].say("failed", text="the answer has come by now")
    expect(page.locator("#alert")).to_contain_text("by now")
    expect(page.locator("#what-if-found")).to_be_empty()


@browser_test
def test_a_name_stands_only_where_most_cells_are_its_own(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    rng = np.random.default_rng(0)
    at = {"blood": [(-0.8, 0), (0.8, 0)], "kidney": [(0, 0.8)], "lung": [(-0.8, 0), (0.8, 0)]}
    n_of = {"blood": 100, "kidney": 60, "lung": 10}
    labels = [label for label, n in n_of.items() for _ in range(n)]
    places = [at[label][i % len(at[label])] for label, n in n_of.items() for i in range(n)]
    page = opened(browser, by_hand)
    xy = np.array(places) + rng.normal(0, 0.02, (len(places), 2))
    looked(page, idle, np.clip(xy, -1, 1), polygene_cell_type=labels)
    look = "import('/static/look.js').then((one) => one.picture().scatter.labels)"
    while not (names := page.evaluate(look)):
        page.wait_for_timeout(100)
    shown = {one["text"]: (one["x"], one["y"]) for one in names}
    assert shown.keys() == {"blood", "kidney"}  # lung is a minority wherever it is
    assert np.allclose(shown["kidney"], (0, 0.8), atol=0.1)
    assert np.allclose(np.abs(shown["blood"]), (0.8, 0), atol=0.1)  # not between its two groups


@browser_test
def test_columns_of_like_names_are_told_apart(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page, two = opened(browser, by_hand), ["a", "b"]
    names = ["polygene_cell_type", "polygene_age", "polygene_age_years", "polygene_cell_type_set_term"]
    names += ["polygene_tissue_set_term", "leiden", "cell_type"]
    looked(page, idle, **dict.fromkeys(names, two))
    texts = page.locator("#colour option:not([hidden])").all_inner_texts()
    common = [f"{one}, what its set has in common" for one in ("cell type", "tissue")]
    predicted = ["cell type, predicted", "age, predicted", "age in years, predicted"]
    assert texts == [*predicted, *common, "clusters that PolyGene made", "cell_type, of the file"]
    expect(page.locator("#legend-about")).to_contain_text("Cell type, predicted: 2 labels")
    page.select_option("#colour", "cell_type")
    expect(page.locator("#legend-about")).to_contain_text("Cell_type, of the file: 2 labels")


@browser_test
def test_odd_columns_have_a_legend_that_can_be_read(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page, n, long = opened(browser, by_hand), 44, "a_name_without_a_blank" * 5
    empty, large, small = [None, *[np.nan] * (n - 1)], list(np.linspace(1e5, 1e7, n)), list(np.linspace(1e-4, 1e-3, n))
    many = [None, *(f"label {i}" for i in range(n - 1))]
    looked(page, idle, polygene_cell_type=["a"] * n, empty=empty, large=large, small=small, many=many, **{long: large})
    page.select_option("#colour", "large")
    expect(page.locator("#ramp")).to_have_text("199,0009,900,000")
    page.select_option("#colour", "small")
    expect(page.locator("#ramp")).to_have_text("0.0001090.000991")
    page.select_option("#colour", "empty")
    expect(page.locator("#legend")).to_have_text(f"no value{n}")
    expect(page.locator("#ramp")).to_be_hidden()
    page.select_option("#colour", "many")
    expect(page.locator("#legend-about")).to_contain_text("43 labels, of which the 20 most frequent have a colour")
    lefts = page.locator("#legend i").evaluate_all(
        "all => all.map((one) => Math.round(one.getBoundingClientRect().left))"
    )
    assert len(set(lefts)) == 1
    page.select_option("#colour", long)
    expect(page.locator("#legend-about")).to_contain_text(long.capitalize())
    assert page.evaluate("(one => one.scrollWidth <= one.clientWidth)(document.querySelector('.side'))")


@browser_test
def test_a_picture_has_room_for_long_labels_and_the_names_of_the_map(
    browser: Browser, by_hand: str, idle: list[Any]
) -> None:
    page, long = opened(browser, by_hand), "effector memory CD8-positive, alpha-beta T cell, terminally differentiated"
    at = {long: (-0.5, 0.0), "cells with B": (0.5, 0.0), "cells with T": (0.7, 0.0)}  # too near for two names
    labels = [label for label, n in zip(at, (5, 4, 3), strict=True) for _ in range(n)]
    looked(page, idle, [at[label] for label in labels], polygene_cell_type=labels)
    page.click("#tab-take")
    page.wait_for_timeout(500)  # the map is painted
    page.set_content(saved(page, "svg").decode())
    texts = page.locator("svg text")
    counted = [f"{label} ({labels.count(label)})" for label in at]
    assert texts.all_text_contents() == ["effector memory CD8+ T cell, terminally…", "cells with B", *counted]
    right, width = page.evaluate(
        "[Math.max(...[...document.querySelectorAll('svg text')].map((one) => one.getBBox().x + one.getBBox().width)),"
        " document.querySelector('svg').viewBox.baseVal.width]"
    )
    assert right <= width


@browser_test
def test_the_legend_of_a_picture_says_how_many_labels_it_leaves_out(
    browser: Browser, by_hand: str, idle: list[Any]
) -> None:
    page = opened(browser, by_hand)
    looked(page, idle, [(i / 50, 0.0) for i in range(43)], polygene_cell_type=[f"type {i}" for i in range(43)])
    page.click("#tab-take")
    page.wait_for_timeout(500)
    page.set_content(saved(page, "svg").decode())
    legend = [text for text in page.locator("svg text").all_text_contents() if "(" in text or "more" in text]
    assert len(legend) == 41
    assert legend[-1] == "and 3 more"


@browser_test
def test_columns_that_clusters_decided_have_plain_names(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page, vote = opened(browser, by_hand), "polygene_cell_type_my_clusters"
    ends = ("_within", "_probability", "_within_probability", "_agree")
    names, numbers = ["polygene_cell_type", vote, vote + ends[0]], [vote + end for end in ends[1:]]
    looked(page, idle, **{name: ["a", "b"] for name in names}, **{name: [0.5, 0.6] for name in numbers})
    texts = page.locator("#colour option:not([hidden])").all_inner_texts()
    by, within = (f"cell type {words} (my_clusters)" for words in ("by cluster", "within its cluster"))
    sure = [f"{by}: probability", f"{within}: probability", f"{by}: share of the cluster that agrees"]
    assert texts == ["cell type, predicted", by, within, *sure]
    page.select_option("#colour", vote)
    expect(page.locator("#legend-about")).to_contain_text("Cell type by cluster (my_clusters): 2 labels")


@browser_test
def test_a_message_goes_with_the_next_action(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page = opened(browser, by_hand)
    looked(page, idle)
    page.fill("#gene", "NOPE")
    with page.expect_response("**/api/gene"):
        page.click("#gene-form button")
    idle[-1].say("failed", text="'NOPE' is not among the 9 genes")
    expect(page.locator("#alert")).to_contain_text("NOPE")
    page.select_option("#colour", "cell_type")
    expect(page.locator("#alert")).to_be_hidden()


@browser_test
def test_a_problem_of_a_file_and_a_long_name_are_shown(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page, name = opened(browser, by_hand), "My collaborator's cells, annotated again, " + "and again " * 9 + ".h5ad"
    chosen(page, idle, name=name, cells=1, problem="It looks scaled.", layers=["counts"], notes=["few <genes>"])
    expect(page.locator("#problem")).to_have_text("It looks scaled.")
    expect(page.locator("#layer")).to_be_visible()
    expect(page.locator("#warnings")).to_have_text("few <genes>")
    expect(page.locator("#choose-title")).to_have_text(re.compile(r"^My collaborator's .+….+\.h5ad$"))
    expect(page.locator("#file-name")).to_have_text(re.compile(r"^My collaborator's .+….+\.h5ad · 1 cell$"))


@browser_test
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stand_out_from_the_page(browser: Browser, by_hand: str, idle: list[Any], theme: str) -> None:
    page = opened(browser, by_hand, theme=theme)
    looked(page, idle, polygene_cell_type=[f"label {i:02}" for i in range(20)], age=[None, *map(float, range(19))])
    dots = "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    block = STYLE.split(':root[data-theme="dark"]')[theme == "dark"].partition("}")[0]
    back = [luminance(dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block))[one]) for one in ("back", "card")]
    colours = page.locator("#legend i").evaluate_all(dots)
    assert len(set(colours)) == 20
    for colour in colours:
        own = luminance("#" + "".join(f"{int(one):02x}" for one in re.findall(r"\d+", colour)))
        assert min((max(own, one) + 0.05) / (min(own, one) + 0.05) for one in back) >= 3, colour
    page.select_option("#colour", "age")
    expect(page.locator("#legend")).to_contain_text("no value1")
    absent, ramp = page.locator("#legend i").evaluate_all(dots)[0], page.locator("#ramp i").get_attribute("style")
    assert absent not in ramp
    red, _, blue = map(int, re.findall(r"\d+", absent))
    assert red > blue + 40  # warm, where what is lowest is grey or blue


@browser_test
def test_what_waits_for_the_map_says_so_and_a_question_stays_as_it_is(
    browser: Browser, by_hand: str, idle: list[Any]
) -> None:
    page = opened(browser, by_hand)
    looked(page, idle, drawn=False)
    page.locator("#legend button", has_text="T cell").first.click()
    expect(page.locator("#selected")).to_contain_text("after the map is drawn")
    asked(page)
    expect(page.locator("#what-if-found")).to_contain_text("after the map is drawn")
    (idle[-1].folder / "map.bin").write_bytes(np.zeros((3, 2), np.float32).tobytes())
    idle[-1].say("state", state={"map": "the map is X_umap of the file"})
    expect(page.locator("#map-about")).to_contain_text("X_umap of the file")
    assert page.locator("#change-name").input_value() == "sex"
    assert page.locator("#change-label").input_value() == "female"
    expect(page.locator("#what-if-found")).to_contain_text("after the map is drawn")
    expect(page.locator("#n-selected")).to_have_text("2")


@browser_test
def test_what_waits_is_read_when_the_map_is_cancelled(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page = opened(browser, by_hand)
    looked(page, idle, drawn=False)
    with page.expect_response("**/api/selection"):
        page.locator("#legend button", has_text="T cell").first.click()
    asked(page)
    with page.expect_response("**/api/selection"):
        page.locator("#map-wait button").click()
    expect(page.locator("#what-if-found")).to_contain_text("Ask again")
    assert [name for name, _ in idle[-1].sent] == ["selected"]
    expect(page.locator("#selected")).not_to_contain_text("after the map")
    expect(page.locator("#selected")).to_contain_text("Reading…")


@browser_test
def test_a_file_that_is_opened_while_a_map_is_drawn_has_a_map_too(
    browser: Browser, by_hand: str, idle: list[Any]
) -> None:
    page = opened(browser, by_hand)
    chosen(page, idle)
    predicted(page, idle)
    page.on("dialog", lambda one: one.accept())
    page.click("#another")
    chosen(page, idle)
    predicted(page, idle)
    assert idle[-1].sent[-1][0] == "draw"


def refused(page: Page, idle: list[Any]) -> None:
    """Drop a file that cannot be read."""
    with page.expect_response("**/api/upload?*"):
        drop(page, "broken.h5ad", b"broken")
    idle[-1].say("failed", text="broken.h5ad is cut off")
    expect(page.locator("#alert")).to_contain_text("broken.h5ad is cut off")


@browser_test
def test_a_file_that_is_refused_leaves_the_one_before_alone(
    browser: Browser, by_hand: str, idle: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened(browser, by_hand)
    chosen(page, idle)
    refused(page, idle)
    expect(page.locator("#choose-view")).to_be_visible()
    monkeypatch.setattr(incoming, "MOST_BYTES", 0)
    drop(page, "large.h5ad", b"large")
    expect(page.locator("#alert")).to_contain_text("larger than")
    expect(page.locator("#choose-view")).to_be_visible()
    page.reload()
    expect(page.locator("#choose-title")).to_have_text("mine.h5ad")


@browser_test
def test_results_go_when_a_file_has_been_read_and_the_reader_agrees(
    browser: Browser, by_hand: str, idle: list[Any]
) -> None:
    page, said = opened(browser, by_hand), list[str]()
    looked(page, idle)
    picked(page, idle, "T cell")
    page.once("dialog", lambda one: (said.append(one.message), one.dismiss()))
    page.click("#another")
    assert "Leave these results?" in said[0]
    expect(page.locator("#look-view")).to_be_visible()
    page.on("dialog", lambda one: one.accept())
    refused(page, idle)
    expect(page.locator("#selected")).to_contain_text("2 selected cells")
    page.reload()
    expect(page.locator("#legend li")).to_have_count(2)
    with page.expect_response("**/api/upload?*"):
        drop(page, "good.h5ad", b"good")
    path = idle[-1].sent[-1][1]["path"]
    idle[-1].say("state", state={"file": FILE | {"name": "good.h5ad", "path": path}})
    idle[-1].say("done", result={})
    expect(page.locator("#choose-title")).to_have_text("good.h5ad")
    assert {one.name for one in idle[-1].folder.iterdir()} == {Path(path).parent.name, "genes.json"}
    page.click("#another")
    expect(page.locator("#open-view")).to_be_visible()


@browser_test
def test_from_the_settings_a_way_leads_back_to_the_map(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page = opened(browser, by_hand)
    chosen(page, idle)
    expect(page.locator("#back")).to_be_hidden()
    page.on("dialog", lambda one: one.accept())
    page.click("#another")
    looked(page, idle)
    picked(page, idle, "T cell")
    page.click("#again")
    page.click("#back")
    expect(page.locator("#selected")).to_contain_text("2 selected cells")


@browser_test
@pytest.mark.slow
def test_a_cancelled_run_goes_back_to_the_choice_and_can_be_run_again(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    adata, rows = pg.datasets.pbmc(), [i % 700 for i in range(12_000)]
    names = pd.DataFrame(index=[f"cell{i}" for i in range(12_000)])
    ad.AnnData(adata.X[rows], obs=names, var=adata.var).write_h5ad(tmp_path / "many.h5ad")
    page = opened(browser, address)
    page.fill("#path", str(tmp_path / "many.h5ad"))
    page.click("#path-form button")
    expect(page.locator("#facts")).to_contain_text("12,000", timeout=LONG)
    page.click("#run")
    expect(page.locator("#live-list li").first).to_be_visible(timeout=LONG)
    expect(page.locator("#busy-text")).to_contain_text("of 12,000 cells")
    page.click("#cancel")
    expect(page.locator("#choose-view")).to_be_visible()
    expect(page.locator("#alert")).to_be_hidden()
    page.click("#another")
    example(page)
    assert page.wrong == []  # type: ignore[attr-defined]


@browser_test
@pytest.mark.slow
def test_a_broken_file_is_explained_and_another_can_be_opened(browser: Browser, address: str, tmp_path: Path) -> None:
    page = opened(browser, address)
    drop(page, "broken.h5ad", cells(50, tmp_path)[:20_000])
    expect(page.locator("#alert")).to_contain_text("broken.h5ad", timeout=LONG)
    expect(page.locator("#alert")).to_contain_text("cut off")
    assert "/tmp" not in page.locator("#alert").inner_text()
    expect(page.locator("#open-view")).to_be_visible()
    page.fill("#path", "/nowhere/cells.h5ad")
    page.click("#path-form button")
    expect(page.locator("#alert")).to_contain_text("There is no file '/nowhere/cells.h5ad'")


@browser_test
def test_one_tab_at_a_time_is_alive(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page = opened(browser, by_hand)
    chosen(page, idle)
    other = page.context.new_page()
    other.set_default_timeout(LONG)
    other.goto(by_hand)
    expect(other.locator("#elsewhere-view")).to_be_visible()
    expect(other.locator("#elsewhere-view")).to_contain_text("one file open at a time")
    expect(other.locator("#elsewhere-view")).to_contain_text("For two files side by side, open the page in a private")
    expect(other.locator("#choose-view")).to_be_hidden()
    drop(other, "other.h5ad", b"bytes")
    expect(page.locator("#choose-title")).to_have_text("mine.h5ad")
    assert [name for name, _ in idle[-1].sent] == ["read"]
    other.click("#here")
    expect(other.locator("#choose-title")).to_have_text("mine.h5ad")
    expect(page.locator("#elsewhere-view")).to_be_visible()
    other.reload()
    expect(other.locator("#choose-title")).to_have_text("mine.h5ad")


@browser_test
@pytest.mark.slow
def test_two_pages_hold_two_files(browser: Browser, address: str, tmp_path: Path) -> None:
    one, other = opened(browser, address), opened(browser, address)
    drop(one, "mine.h5ad", cells(40, tmp_path))
    expect(one.locator("#choose-title")).to_have_text("mine.h5ad", timeout=LONG)
    other.reload()
    expect(other.locator("#open-view")).to_be_visible()
    drop(other, "yours.h5ad", cells(30, tmp_path))
    expect(other.locator("#choose-title")).to_have_text("yours.h5ad", timeout=LONG)
    one.reload()
    expect(one.locator("#choose-title")).to_have_text("mine.h5ad", timeout=LONG)


OVERLAPS = """() => {
  const texts = [], range = document.createRange();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode, own = one.parentElement;
    if (!one.data.trim() || !own.checkVisibility() || own.closest(".unseen, .skip, .scroll, option, #run")) continue;
    range.selectNode(one);
    for (const box of range.getClientRects()) texts.push([one.data, box]);
  }
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
  const others = (a, i) => texts.slice(i + 1).filter(([, b]) => over(a, b)).map(([text]) => text);
  return texts.flatMap(([text, box], i) => others(box, i).map((other) => [text, other]));
}"""


@browser_test
@pytest.mark.parametrize("width", [1280, 400])
def test_text_of_twice_the_size_covers_no_other_and_widens_no_page(
    browser: Browser, by_hand: str, idle: list[Any], width: int
) -> None:
    page = opened(browser, by_hand, size=(width, 800))
    page.on("dialog", lambda one: one.accept())
    page.evaluate("document.documentElement.style.fontSize = '200%'")

    def check() -> None:
        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    check()
    labels = [["CD14-positive, CD16-negative classical monocyte", 9_000], ["T cell", 2]]
    given = [one | {"labels": labels, "n_labels": 2} for one in FILE["phenotypes"]]
    chosen(page, idle, phenotypes=given)
    check()
    page.click("#another")
    looked(page, idle)
    check()
    picked(page, idle, "T cell")
    check()
    asked(page)
    idle[-1].say("done", result=EFFECTS)
    expect(page.locator("#what-if-found")).to_contain_text("CD74")
    check()
    for name in ("table", "take"):
        page.click(f"#tab-{name}")
        check()


@browser_test
@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
def test_nothing_is_wider_than_the_screen(browser: Browser, address: str, size: tuple[int, int]) -> None:
    page = opened(browser, address, size=size)

    def check(what: str) -> None:
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            expect(page.locator("html")).to_have_attribute("data-theme", theme)
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], (what, theme)

    check("open")
    page.click("#example")
    expect(page.locator("#choose-view")).to_be_visible(timeout=LONG)
    check("choose")
    page.click("#run")
    expect(page.locator("#legend li").first).to_be_visible(timeout=LONG)
    for name in ("look", "selected", "what-if", "table", "take"):
        page.click(f"#tab-{name}")
        check(name)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas[tabindex]")].filter((one) =>
          !(one.innerText || one.ariaLabel || one.title || one.labels?.length || one.getAttribute("aria-labelledby")))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []


@browser_test
@pytest.mark.slow
def test_the_page_is_used_with_the_keyboard_alone(browser: Browser, address: str) -> None:
    page = opened(browser, address)
    page.focus("#example")
    page.keyboard.press("Enter")
    expect(page.locator("#choose-view")).to_be_visible(timeout=LONG)
    page.focus("#run")
    page.keyboard.press("Enter")
    expect(page.locator("#legend li").first).to_be_visible(timeout=LONG)
    page.wait_for_timeout(500)
    before = page.locator("#points").screenshot()
    page.focus("#points")
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(600)
    assert page.locator("#points").screenshot() != before
    page.keyboard.press("0")
    page.locator("#legend button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#n-selected")).to_be_visible()
    page.focus("#tab-selected")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#what-if")).to_be_visible()
    page.focus("#points")
    page.keyboard.press("Escape")
    expect(page.locator("#n-selected")).to_be_hidden()


SEEN = """() => {
  const { left, top, width, height } = document.activeElement.getBoundingClientRect();
  const there = document.elementFromPoint(left + width / 2, top + height / 2);
  return there?.contains(document.activeElement) || document.activeElement.contains(there);
}"""


@browser_test
def test_the_focus_goes_with_the_view_and_is_never_hidden(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page, at = opened(browser, by_hand, size=(1280, 640)), "document.activeElement"
    page.keyboard.press("Tab")
    chosen(page, idle)
    assert page.evaluate(f"{at}.id") == "choose-title"
    while page.evaluate(f"{at}.id") != "run":
        page.keyboard.press("Tab")
        assert page.evaluate(SEEN), page.evaluate(f"{at}.outerHTML")
    page.on("dialog", lambda one: one.accept())
    page.click("#another")
    looked(page, idle)
    assert page.evaluate(f"{at}.textContent") == "Cells on the map"
    page.locator("#legend button", has_text="T cell").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(f"{at}.id") == "tab-selected"


@browser_test
def test_controls_have_names_of_their_own(browser: Browser, by_hand: str, idle: list[Any]) -> None:
    page, controls = opened(browser, by_hand), "button, input:not([type=file]), select, [tabindex='0']"
    labels = [one | {"labels": [["T cell", 3]]} for one in FILE["phenotypes"]]
    looked(page, idle, file={"phenotypes": labels})

    def check() -> None:
        shown = [one for one in page.locator(controls).all() if one.is_visible()]
        names = [one.aria_snapshot().partition("\n")[0].partition(" [")[0].rstrip(":") for one in shown]
        assert len(set(names)) == len(names)
        assert [name for name in names if '"' not in name] == []

    for name in ("look", "selected", "what-if", "table", "take"):
        page.click(f"#tab-{name}")
        check()
    page.click("#again")
    check()


def luminance(colour: str) -> float:
    full = colour if len(colour) == 7 else "#" + "".join(2 * one for one in colour[1:])
    parts = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


PAIRS = [
    *((ink, back) for ink in ("ink", "soft", "own") for back in ("back", "card", "fill")),
    ("on-own", "own"), ("own", "own-soft"), ("ink", "own-soft"), ("care", "care-soft"), ("bad", "bad-soft"),
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=" on ".join)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(theme: str, pair: tuple[str, str]) -> None:
    block = STYLE.split(':root[data-theme="dark"]')[theme == "dark"].partition("}")[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block))
    light, dark = sorted((luminance(colours[name]) for name in pair), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
