"""The tables of docs/scale.md from the kept results, and what follows by arithmetic; `recipes.pages` places them.

What is not measured is marked with ≈. Times of GPUs rest on a share of their peak that is assumed, and say so.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.models.tables import markdown
from benchmarks.shared.command import RESULTS
from polygene.model.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SIZES = {"100 thousand": 100_000, "10 million": 10_000_000, "50 million": 50_000_000}
N_MACHINES = 16
TOKENS = {512: 128, 2432: 413}
"""Tokens of a cell in training. 512 genes, a fifth expressed: 95 keys and 33 queries (docs/decisions.md). 2432
genes, 12 % expressed: as many of the expressed genes visible (0.85), and as many queries a gene."""
PEAK, SHARE, PRICE = 312e12, 0.2, 2.0
"""bfloat16 operations a second of an A100 (NVIDIA's data sheet), the share of them that training is assumed to reach,
and an assumed price of a GPU in dollars an hour."""


def kept(name: str) -> dict[str, Any]:
    """Read the numbers of a part."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def said(results: dict[str, Any], only: str) -> str:
    """Name the command, the day, the machine and the seed."""
    hardware = results["hardware"]
    return (
        f"`python -m benchmarks.scale --data DIR --only {only}`, {results['date']}, seed {results['seed']}, one thread "
        f"of {hardware['cores']} cores of an {hardware['processor']}, load {hardware['load_before']} before it began"
    )


def clock(seconds: float) -> str:
    """Write a time with two digits."""
    for size, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{two_digits(seconds / size)} {name}"
    return f"{two_digits(seconds)} s"


def size_text(n_bytes: float) -> str:
    return f"{two_digits(n_bytes / 1e9)} GB" if n_bytes >= 1e9 else f"{two_digits(n_bytes / 1e6)} MB"


def two_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def scale_atlas() -> str:
    """What was measured as cells grow, and what larger atlases take by it."""
    found = kept("atlas")
    rows = [["cells", "prepare: cells/s", "peak", "annotate: cells/s", "peak"]]
    sizes = sorted(map(int, found["prepare"]))
    for n in sizes:
        cells = [f"{n:,}"]
        for verb in ("prepare", "annotate"):
            one = found[verb][str(n)]
            cells += [f"{one['cells_per_s']:,}", f"{one['peak_mb']:,.0f} MB"]
        rows.append(cells)
    exponents = found["growth_exponent"]
    rows.append(["exponent of time", f"{exponents['prepare']:.2f}", "", f"{exponents['annotate']:.2f}", ""])
    measured = f"{said(found, 'atlas')}; rates by seconds of the processor, less the start:\n\n{markdown(rows)}"
    largest, a_cell = str(sizes[-1]), found["atlas_bytes_a_cell"]
    speed = {verb: found[verb][largest]["cells_per_s"] for verb in ("prepare", "annotate")}
    rows = [["", *SIZES]]
    rows.append(["file of cells (this source)", *(f"≈ {size_text(n * a_cell['file'])}" for n in SIZES.values())])
    rows.append(["corpus", *(f"≈ {size_text(n * a_cell['prepare'])}" for n in SIZES.values())])
    rows.append(["results as Parquet", *(f"≈ {size_text(n * a_cell['annotate'])}" for n in SIZES.values())])
    for verb, rate in speed.items():
        times = [("" if str(n) == largest else "≈ ") + clock(n / rate) for n in SIZES.values()]
        rows.append([f"{verb}, one core", *times])
        rows.append([f"{verb}, {N_MACHINES} parts", *(f"≈ {clock(n / rate / N_MACHINES)}" for n in SIZES.values())])
    by_arithmetic = f"By arithmetic from the largest size that was measured (≈), parts at best:\n\n{markdown(rows)}"
    return f"{measured}\n\n{by_arithmetic}"


def scale_parts() -> str:
    """What parts and processes took."""
    found = kept("parts")
    seconds = found["parts_seconds"]
    of_parts = ", ".join(f"{one:.1f}" for one in seconds["parts"])
    rows = [["", "seconds of the processor"]]
    rows += [["at once", f"{seconds['whole']:.1f}"], [f"each of {len(seconds['parts'])} parts", of_parts]]
    rows += [["joining them", f"{seconds['join']:.1f}"], ["two processes, together", f"{seconds['two_processes']:.1f}"]]
    overlap = found["panel_overlap"]
    shares = ", ".join(
        f"{value:.2f} at {float(name):.0%}" for name, value in overlap.items() if name != "training_cells"
    )
    gains = ", ".join(f"{value} ({name})" for name, value in found["speed_up"].items())
    return (
        f"{said(found, 'parts')}, {found['parts_cells']:,} nuclei × 5,000 genes, of which 4,000 nuclei rank:\n\n"
        f"{markdown(rows)}\n\n"
        f"Speed-up: {gains}. The joined corpus has the bytes of the one made at once: "
        f"{'yes' if found['parts_equal'] else 'no'}; so has that of two processes: "
        f"{'yes' if found['processes_equal'] else 'no'}. Of the 512 genes that {overlap['training_cells']:,} training "
        f"cells choose, a sample of them chooses these shares again: {shares}."
    )


def scale_hosts() -> str:
    """What two hosts did."""
    found = kept("hosts")
    one = found["two_hosts"]
    alike = "with the same weights as" if one["equal"] else "with other weights than"
    return (
        f"{said(found, 'hosts')}: two hosts made of {one['made_of']} train {one['steps']} steps. One is killed "
        f"(SIGKILL); the other ends after {one['seconds']} s with exit code {one['exit_code']} and "
        f"{'says' if one['said_so'] else 'does not say'} that another process ended. Started again, both end {alike} "
        "a run that nobody disturbed."
    )


def scale_sizes() -> str:
    """The losses, and the exponents."""
    found = kept("scaling")
    scaling = found["scaling"]
    rows = [["weights", "training cells", "seed", "loss", "cells/s"]]
    for one in scaling["runs"]:
        cells = (
            f"{one['weights']:,}",
            f"{one['cells']:,}",
            str(one["seed"]),
            f"{one['loss']:.3f}",
            f"{one['cells_per_s']:,}",
        )
        rows.append(list(cells))
    exponents = "; ".join(
        f"with {name} {scaling[name]['exponent']:.3f} ± {scaling[name]['standard_error']:.3f} "
        f"({scaling[name]['points']} runs)"
        for name in ("weights", "cells")
        if name in scaling
    )
    return f"{said(found, 'scaling')}:\n\n{markdown(rows)}\n\nExponent of the loss and its standard error: {exponents}."


def scale_recipes() -> str:
    """Time and price of the recipes for the Census on GPUs that nobody had."""
    n_cells, rows = (
        SIZES["50 million"],
        [["recipe", "weights of the layers", "operations a cell", "1 GPU", "8 GPUs", "64 GPUs", "price"]],
    )
    for n_genes, tokens in TOKENS.items():
        recipe = Recipe.load(RECIPES / f"census-{n_genes}.toml")
        shape = recipe.network
        layer = 4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.intermediate_size
        n_weights = shape.num_hidden_layers * layer
        operations = 6 * n_weights * tokens
        seconds = n_cells * recipe.training.epochs * operations / (PEAK * SHARE)
        times = [f"≈ {clock(seconds / n)}" for n in (1, 8, 64)]
        price = f"≈ ${seconds / 3600 * PRICE:,.0f}"
        rows.append(
            [f"census-{n_genes}", f"{n_weights / 1e6:.0f} million", f"{operations / 1e9:.0f} billion", *times, price]
        )
    return (
        f"For 50 million cells, {recipe.training.epochs} epochs, 6 operations a weight and token ({TOKENS[512]} and "
        f"{TOKENS[2432]} tokens a cell), at {100 * SHARE:.0f} % of the {PEAK / 1e12:.0f} TFLOP/s of an A100, which is "
        f"assumed, at ${PRICE:.0f} a GPU and hour, which is too:\n\n"
        f"{markdown(rows)}"
    )
