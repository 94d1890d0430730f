"""The tables of docs/scale.md from the kept results, and what follows by arithmetic; `recipes.pages` places them.

What is not measured is marked with ≈. Times of GPUs rest on a share of their peak that is assumed, and say so.
"""

import json
from typing import Any

from benchmarks.scale import budget
from benchmarks.shared.command import RESULTS
from benchmarks.shared.markdown import markdown
from polygene.corpus.config import PrepareConfig
from polygene.model.recipe import Recipe

SIZES = {"100 thousand": 100_000, "10 million": 10_000_000, "50 million": 50_000_000}
N_MACHINES, CONFIG = 16, PrepareConfig()


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
    """What was measured as cells grow."""
    found = kept("atlas")
    head = ["cells", "command", "measured", "processor", "clock", "load", "cells/s", "peak", "bytes a cell"]
    rows = [head]
    for verb in ("prepare", "annotate"):
        for n, one in found[verb].items():
            loads = [part["load_before"] for part in one["parts"].values()]
            load = f"{min(loads):.0f}" + (f" to {max(loads):.0f}" if round(min(loads)) < round(max(loads)) else "")
            share = "all" if one["measured_share"] == 1 else f"{one['measured_share']:.0%}"
            times = [clock(one["seconds"] * one["measured_share"]), clock(one["clock_s"] * one["measured_share"]), load]
            costs = [f"{one['cells_per_s']:,}", f"{one['peak_mb']:,.0f} MB", str(one["bytes_a_cell"])]
            rows.append([f"{int(n):,}", verb, share, *times, *costs])
        grown = f"time {found['growth_exponent'][verb]:.2f}"
        memory = f"{found['memory_bytes_a_cell'][verb]} bytes a cell"
        rows.append(["growth", verb, "", grown, "", "", "", memory, ""])
    return f"{said(found, 'atlas')}; the start of a command is subtracted from its time:\n\n{markdown(rows)}"


def scale_sizes() -> str:
    """What three sizes take, by the largest size that was measured."""
    found = kept("atlas")
    largest = {verb: found[verb][max(found[verb], key=int)] for verb in ("prepare", "annotate")}
    measured = {verb: {int(n) for n, one in found[verb].items() if one["measured_share"] == 1} for verb in largest}
    rows = [["", *SIZES]]
    names = {"file": "file of cells (this source)", "prepare": "corpus", "annotate": "results as Parquet"}
    for name, what in names.items():
        a_cell = found[name][max(found[name], key=int)]["bytes_a_cell"]
        known = measured.get(name, {int(n) for n in found[name]})
        texts = [("" if n in known else "≈ ") + size_text(n * a_cell) for n in SIZES.values()]
        rows.append([what, *texts])
    for verb, one in largest.items():
        rows.append([f"{verb}, one core", *(_time(found, verb, n, n in measured[verb]) for n in SIZES.values())])
        if verb == "annotate":
            per_part = [f"≈ {clock(n / one['cells_per_s'] / N_MACHINES)}" for n in SIZES.values()]
            rows.append([f"{verb}, each of {N_MACHINES} parts", *per_part])
            continue
        rows.append([f"{verb}, each of {N_MACHINES} parts", *(_part(found, n) for n in SIZES.values())])
    for verb, one in largest.items():
        n_largest, grows = int(max(found[verb], key=int)), found["memory_bytes_a_cell"][verb]
        peaks = {n: one["peak_mb"] * 1e6 + grows * (n - n_largest) for n in SIZES.values()}
        known = {int(n): other["peak_mb"] * 1e6 for n, other in found[verb].items()}
        of_size = [size_text(known[n]) if n in known else f"≈ {size_text(peaks[n])}" for n in SIZES.values()]
        rows.append([f"{verb}, peak memory", *of_size])
    return markdown(rows)


def _time(found: dict[str, Any], verb: str, n: int, measured: bool) -> str:
    if measured:
        return clock(found[verb][str(n)]["seconds"])
    nearest = found[verb].get(str(n)) or found[verb][max(found[verb], key=int)]
    return f"≈ {clock(n / nearest['cells_per_s'])}"


def _part(found: dict[str, Any], n: int) -> str:
    """Give the time of one of the parts of `prepare`, by the cells that it reads.

    Each ranks the genes, for which it reads `rank_cells` training cells twice, and reads its own share once.
    """
    n_largest = int(max(found["prepare"], key=int))

    def ranking(n_cells: int) -> float:
        return 2 * min(CONFIG.rank_cells, CONFIG.fractions[0] * n_cells)

    a_read = found["prepare"][str(n_largest)]["seconds"] / (n_largest + ranking(n_largest))
    return f"≈ {clock(a_read * (ranking(n) + n / N_MACHINES))}"


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
    ways = {
        "killed": ("torchrun", "is killed (SIGKILL)"),
        "vanished": ("accelerate launch", "loses its network and closes no connection"),
    }
    rows = [["launcher", "one of two hosts", "the other ends after", "exit code", "its message", "started again"]]
    for name, (launcher, what) in ways.items():
        if name in one:
            ended = one[name]
            says = "says why" if ended["said_so"] else "does not say why"
            alike = "equal weights" if ended["equal"] else "other weights"
            rows.append([launcher, what, f"{ended['seconds']} s", str(ended["exit_code"]), says, alike])
    return (
        f"{said(found, 'hosts')}: {one['steps']} steps on two hosts made of {one['made_of']}, whose weights are "
        f"compared with those of a run that nobody disturbed:\n\n{markdown(rows)}"
    )


def scale_losses() -> str:
    """The losses, and the exponents."""
    found = kept("scaling")
    scaling = found["scaling"]
    rows = [["weights", "training cells", "seed", "loss", "cells/s"]]
    for one in scaling["runs"]:
        cells = (f"{one['weights']:,}", f"{one['cells']:,}", str(one["seed"]), f"{one['loss']:.3f}")
        rows.append([*cells, f"{one['cells_per_s']:,}"])
    exponents = "; ".join(
        f"with {name} {scaling[name]['exponent']:.3f} ± {scaling[name]['standard_error']:.3f} "
        f"({scaling[name]['points']} runs)"
        for name in ("weights", "cells")
        if name in scaling
    )
    (halved, of_halved), (tenfold, of_tenfold) = budget.trade(scaling).values()
    return (
        f"{said(found, 'scaling')}:\n\n{markdown(rows)}\n\nExponent of the loss and its standard error: {exponents}. "
        f"By these, half the weights for twice the passes, at equal cost, multiply the loss by {halved:.2f} ± "
        f"{of_halved:.2f}, and ten times the cost by {tenfold:.2f} ± {of_tenfold:.2f}."
    )


def scale_recipes() -> str:
    """Time and price of the recipes for the Census on GPUs that nobody had."""
    found = kept("budget")
    head = ["recipe", "weights of the layers", "tokens a cell", "operations a cell", "1 GPU", "8 GPUs", "64 GPUs"]
    rows, here = [[*head, "price"]], []
    for n_genes, one in found["budget"].items():
        epochs = Recipe.load(budget.RECIPES / f"census-{n_genes}.toml").training.epochs
        seconds = budget.gpu_seconds(one["operations_a_cell"], epochs)
        times = [f"≈ {clock(seconds / n)}" for n in (1, 8, 64)]
        size = [f"{one['weights_of_layers'] / 1e6:.0f} million", f"{one['tokens']:.0f}"]
        price = f"≈ ${seconds / 3600 * budget.PRICE:,.0f}"
        rows.append([f"census-{n_genes}", *size, f"{one['operations_a_cell'] / 1e9:.0f} billion", *times, price])
        of_core = clock(budget.CELLS * epochs / one["cells_per_s"])
        here.append(
            f"census-{n_genes} {one['cells_per_s']:.1f} cells/s ({one['share_of_products']:.0%} of the "
            f"{one['products_per_s'] / 1e9:.0f} GFLOP/s of matrix products, ≈ {of_core} for the Census)"
        )
    sent = 2 * 4 * max(one["weights"] for one in found["budget"].values())  # float32, around all processes once
    assumed = (
        f"{budget.SHARE:.0%} of the {budget.PEAK / 1e12:.0f} TFLOP/s of an A100, which is assumed, at "
        f"${budget.PRICE:.0f} a GPU and hour, which is too"
    )
    return (
        f"{said(found, 'budget')}: tokens and operations of training cells of {len(budget.SOURCES)} real sources on "
        f"whole genomes. One core here trains {'; '.join(here)}. For {budget.CELLS // 10**6} million cells and "
        f"{epochs} epochs, at {assumed}:\n\n{markdown(rows)}\n\n"
        f"In {budget.HOURS} hours one GPU trains up to {budget.chosen(found['budget'])} layers, of 64 times that "
        "width, on 512 genes. The columns of 8 and 64 GPUs are the first one divided: a step sends "
        f"≈ {size_text(sent)} of gradients besides, ≈ {two_digits(sent * 8 / 100e9 * 1e3)} ms at 100 Gbit/s."
    )
