"""Draw the two schemes of the site, docs/_static/sequence.svg and attention.svg.

python -m recipes.drawings
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from polygene.pl._demo import SLOTS

STATIC = Path(__file__).parents[1] / "docs" / "_static"
INK, GREY, BLUE, ORANGE, PAPER = "#1F2933", "#667085", "#0072B2", "#D55E00", "#FFFFFF"
WIDE, ROW = 480, 4
"""Width of a drawing, small enough for a phone; slots in a row."""
STYLE = "font-family='system-ui, Segoe UI, Helvetica, Arial, sans-serif'"


def drawing(height: int, parts: Iterable[str], title: str) -> str:
    """Put parts on white paper."""
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDE} {height}' role='img' {STYLE}>"
    paper = f"<title>{escape(title)}</title><rect width='{WIDE}' height='{height}' rx='10' fill='{PAPER}'/>"
    return "\n".join([head, paper, *parts, "</svg>"]) + "\n"


def words(
    x: float, y: float, text: str, *, size: int = 14, fill: str = INK, weight: int = 400, at: str = "middle"
) -> str:
    """Write words; `at` is start, middle or end."""
    return (
        f"<text x='{x:g}' y='{y:g}' font-size='{size}' fill='{fill}' font-weight='{weight}' text-anchor='{at}'>"
        f"{escape(text)}</text>"
    )


def box(x: float, y: float, width: float, height: float, *, masked: bool = False) -> str:
    """Draw a slot; a masked one is dashed."""
    look = f"fill='#FCE5D4' stroke='{ORANGE}' stroke-width='2' stroke-dasharray='5 3'" if masked else ""
    return f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='7' {look or PLAIN}/>"


PLAIN = "fill='#F2F4F7' stroke='#AAB2BD'"


def sequence() -> str:
    """Draw one cell as the network reads it: the slots of the demo's picture, row by row."""
    parts, width = [], 110
    slots = [slot for slot in SLOTS if slot[1] != "…"]
    for number, (head, content) in enumerate(slots):
        x, y = 8 + (number % ROW) * (width + 8), 10 + (number // ROW) * 62
        masked = content == "?"
        parts.append(box(x, y, width, 52, masked=masked))
        middle = x + width / 2
        if head:
            parts.append(words(middle, y + 19, head, size=11, fill=GREY))
        said = "[MASK]" if masked else content
        colour, weight = (ORANGE, 700) if masked else (INK, 500)
        parts.append(words(middle, y + (40 if head else 32), said, size=15, fill=colour, weight=weight))
    rows = -(-len(slots) // ROW)
    y = 10 + rows * 62
    parts.append(words(WIDE / 2, y + 20, "What is known, what each gene expresses,", size=15))
    parts.append(
        words(WIDE / 2, y + 42, "and masked slots, which PolyGene predicts.", size=15, fill=ORANGE, weight=600)
    )
    return drawing(y + 58, parts, "One cell as PolyGene reads it")


KEYS = ("[CLS]", "sex", "tissue", "[START]", "LYZ", "CD74", "[END]")
QUERIES = ("cell type?", "CD14?")


def attention() -> str:
    """Draw who sees whom: keys see keys, a query sees the keys and itself, nothing sees a query."""
    names, side, left, top = (*KEYS, *QUERIES), 38, 106, 78
    parts = [words(left + side * len(names) / 2, 20, "sees …", size=14, weight=600)]
    for j, name in enumerate(names):
        x, query = left + side * (j + 0.5), name in QUERIES
        colour = ORANGE if query else INK
        head = words(0, 0, name, size=12, fill=colour, at="start")
        parts.append(f"<g transform='translate({x + 4:g} {top - 6}) rotate(-38)'>{head}</g>")
        parts.append(words(left - 8, top + side * (j + 0.5) + 4, name, size=13, fill=colour, at="end"))
        for i in range(len(names)):
            seen = i < len(KEYS) or i == j
            fill = (ORANGE if query else BLUE) if seen else "#F2F4F7"
            at = f"x='{left + side * i + 2}' y='{top + side * j + 2}' width='{side - 4}' height='{side - 4}'"
            parts.append(f"<rect {at} rx='5' fill='{fill}' fill-opacity='{0.75 if seen else 1}'/>")
    y = top + side * len(names)
    parts.append(words(WIDE / 2, y + 24, "Blue: keys. Orange: queries, which nothing else sees.", size=14))
    return drawing(y + 40, parts, "Keys see keys, a query sees the keys and itself, nothing sees a query")


def main() -> None:
    STATIC.mkdir(exist_ok=True)
    for draw in (sequence, attention):
        (STATIC / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
