"""The tables of gene networks and of ageing in docs/paper.md."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.shared.markdown import markdown

Section = Mapping[str, Any]
SAID = ("power law", "cannot be told", "no power law")


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    return markdown([list(head), *([_number(value) for value in row] for row in rows)])


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _interval(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def of_networks(results: Section) -> str:
    """Lay out contexts, and edges of the reference."""
    contexts = _table(
        ["file", "weights", "contexts", "within", "between", "within − between"],
        [
            [row["file"], row["weights"], row["contexts"], row["within"], row["between"], _interval(row, "difference")]
            for row in results["contexts"]
        ],
    )
    others = list(results["edges_shared"][0])[3:]
    shared = _table(
        ["file", "edges", *others],
        [[row["file"], row["edges"], *(row[other] for other in others)] for row in results["edges_shared"]],
    )
    edges = results["network_auprc"]
    files = list(dict.fromkeys(row["file"] for row in edges))
    scores = list(dict.fromkeys(row["score"] for row in edges))
    of = {(row["file"], row["score"]): row for row in edges}
    rows = [[score, *(_interval(of[file, score], "auprc") for file in files)] for score in scores]
    rows.append(["base rate", *(of[file, scores[0]]["base"] for file in files)])
    within = [[score, *(of[file, score]["within_deciles"] for file in files)] for score in scores]
    within.append(["base rate", *(of[file, scores[0]]["base_within_deciles"] for file in files)])
    sizes = [f"* {row['file']}: {row['edges']:,} edges of {row['sources']} sources among {row['genes']:,} genes."
             for row in edges if "sources" in row]  # fmt: skip
    parts = [
        "Edges of halves of the donors, Jaccard index, at equal cells:",
        contexts,
        "Edges that networks of the same cells share, Jaccard index, a mean over contexts:",
        shared,
    ]
    if edges:
        parts += [
            "\n".join(sizes),
            "AUPRC of all pairs:\n\n" + _table(["score", *files], rows),
            "The same within deciles of the target's mean expression, a mean over deciles:\n\n"
            + _table(["score", *files], within),
        ]
    return "\n\n".join(parts)


def of_modules(results: Section) -> str:
    """Lay out planted modules."""
    recovery = _table(["weights", "AUROC of pairs of one planted module"], results["module_recovery_auc"].items())
    shared = _table(["weights", "edges that two seeds share, Jaccard"], results["edges_shared_by_seeds"].items())
    return f"{recovery}\n\n{shared}"


def of_powerlaw(results: Section) -> str:
    """Lay out verdicts, and topology beside rewired networks."""
    verdicts = [
        [row["network"], row["model"], *(row.get(said, 0) for said in SAID), f"{_together(results, row)}"]
        for row in results["verdicts"]
    ]
    head = ["network", "model", *(f"{said}, contexts × thresholds" for said in SAID), "contexts: power law at all"]
    names = ("clustering", "modularity", "assortativity")
    topology = [
        [
            row["network"],
            row["model"],
            row["contexts"],
            *(f"{row[name]:.2f} ({row[f'{name}_rewired']:.2f})" for name in names),
            row["degree_by_expression"],
        ]
        for row in results["topology"]
    ]
    of_topology = ["network", "model", "contexts", *(f"{name} (rewired)" for name in names), "degree by expression, ρ"]
    return f"{_table(head, verdicts)}\n\n{_table(of_topology, topology)}"


def _together(results: Section, row: Mapping[str, Any]) -> str:
    own = [one for one in results["powerlaw"] if all(one[key] == row[key] for key in ("network", "model"))]
    return f"{sum(one['verdict_together'] == SAID[0] for one in own)} of {len(own)}"


def of_ageing(results: Section) -> str:
    """Lay out how many slopes stand out, and turnover and drift."""
    together = results["slopes_together"]
    columns = ["network", "slopes", "p below 0.05", "expected by chance", "q below 0.05", "smallest q"]
    slopes = _table(columns, [[row[column] for column in columns] for row in together])
    changes = _table(
        ["network", "cell type", "change", "youngest to oldest", "shuffled ages", "p"],
        [
            [
                row["network"],
                row["context"],
                row["change"],
                row["value"],
                f"{row['shuffled']:.3f} [{row['shuffled_low']:.3f}, {row['shuffled_high']:.3f}]",
                row["p"],
            ]
            for row in results["changes"]
        ],
    )
    columns = ["context", "n_donors", "cells_per_donor", "depth", "genes", "edges"]
    design = _table(
        ["cell type", "donors", "cells a donor", "counts a cell", "genes", "edges"],
        [[row[column] for column in columns] for row in results["design"]],
    )
    return "\n\n".join([design, slopes, changes])


SECTIONS: dict[str, Callable[[Section], str]] = {
    "networks": of_networks,
    "modules": of_modules,
    "powerlaw": of_powerlaw,
    "ageing": of_ageing,
}
