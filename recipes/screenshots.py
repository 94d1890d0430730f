"""Make the pictures of docs/app.md: the local page with the cells that ship, wide and on a phone, light and dark.

    python -m recipes.screenshots

Needs the extras `app` and `test`, and a Chromium. No data are needed.
"""

import io
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.app import CHROMIUM, FLAGS, server

OUT = Path(__file__).parents[1] / "docs" / "app"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PATIENCE = 300_000  # milliseconds
BETWEEN = 10  # pixels between pictures of a phone
LABEL, GENE, REMOVED, CHANGED = "naive B cell", "MS4A1", "CD79A", "disease"


def opened(browser: Browser, address: str, size: dict[str, int], theme: str) -> Page:
    """Open the page as another reader does."""
    page = browser.new_context(viewport=size, color_scheme=theme).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#example").wait_for()
    return page


def choose(page: Page) -> None:
    """Take the cells that ship."""
    page.click("#example")
    page.locator("#run").wait_for()


def predict(page: Page, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Predict, and wait for the map."""
    page.click("#run")
    page.locator("#live").wait_for()
    meanwhile()
    page.locator("#tab-look").wait_for()
    page.locator("#map-wait").wait_for(state="hidden")
    page.wait_for_timeout(1_000)


def select(page: Page) -> None:
    """Select the cells of a label, and wait for what is said of them."""
    page.locator("#legend button", has_text=re.compile(f"^{LABEL}$")).first.click()
    page.locator("#selected table, #selected .bars").first.wait_for(state="attached")
    page.wait_for_timeout(8_000)  # genes come later


def ask(page: Page, form: str) -> None:
    """Ask what if, and wait for the answer."""
    page.locator(f"#{form} button").click()
    page.locator("#what-if-found h2").wait_for()


def shot(page: Page, to: str | None = None) -> Image.Image:
    """Take a picture, with an element at the top where one is named."""
    page.evaluate("to => to ? document.querySelector(to).scrollIntoView() : scrollTo(0, 0)", to)
    page.wait_for_timeout(300)
    return Image.open(io.BytesIO(page.screenshot()))


def save(name: str, *pictures: Image.Image) -> None:
    """Write pictures, side by side where there are several, in few colours."""
    width = sum(one.width for one in pictures) + BETWEEN * (len(pictures) - 1)
    whole, left = Image.new("RGB", (width, pictures[0].height), "#888888"), 0
    for one in pictures:
        whole.paste(one.convert("RGB"), (left, 0))
        left += one.width + BETWEEN
    whole.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(OUT / f"{name}.png", optimize=True)


def wide(browser: Browser, address: str) -> None:
    """Walk through the page on a computer."""
    dark = opened(browser, address, WIDE, "dark")
    choose(dark)
    save("choose-dark", shot(dark))
    predict(dark)
    dark.fill("#gene", GENE)
    dark.locator("#gene-form button").click()
    dark.locator("#ramp").wait_for()
    dark.wait_for_timeout(1_000)
    save("gene-dark", shot(dark))
    dark.context.close()
    page = opened(browser, address, WIDE, "light")
    save("open", shot(page))
    choose(page)
    predict(page, lambda: save("predicting", shot(page)))
    save("look", shot(page))
    select(page)
    page.click("#tab-selected")
    save("selected", shot(page))
    page.click("#tab-what-if")
    page.select_option("#change-name", CHANGED)
    ask(page, "change-form")
    save("what-if", shot(page))
    page.context.close()


def phone(browser: Browser, address: str) -> None:
    """Walk through the page on a phone."""
    dark = opened(browser, address, PHONE, "dark")
    choose(dark)
    chosen = shot(dark)
    dark.context.close()
    page = opened(browser, address, PHONE, "light")
    first = [shot(page), chosen]
    choose(page)
    predict(page)
    first.append(shot(page))
    select(page)
    page.click("#tab-selected")
    save("phone", *first, shot(page, "#selected"))
    page.click("#tab-what-if")
    page.select_option("#change-name", CHANGED)
    ask(page, "change-form")
    more = [shot(page, "#what-if")]
    page.locator("#knock-form input").fill(REMOVED)
    page.locator("#what-if-found").evaluate("found => found.replaceChildren()")
    ask(page, "knock-form")
    more.append(shot(page, "#what-if"))
    for tab in ("table", "take"):
        page.click(f"#tab-{tab}")
        page.wait_for_timeout(1_000)
        more.append(shot(page, f"#{tab}"))
    save("phone-more", *more)
    page.context.close()


def main() -> None:
    if CHROMIUM is None:
        sys.exit("there is no Chromium: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as scratch,
        server(Path(scratch)) as (address, _),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        wide(browser, address)
        phone(browser, address)
        browser.close()


if __name__ == "__main__":
    main()
