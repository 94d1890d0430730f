"""Network: the most connected genes of one context, by module, and the degrees of all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from scipy.special import zeta

from polygene.errors import DataError
from polygene.pl._axes import axes_for, check_drawable, finish
from polygene.runtime import extras

COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
"""Paul Tol's bright colours, which colour-blind readers tell apart; modules beyond them are grey."""
OTHERS = "#BBBBBB"
MARKERS = "osD^v<"
HUB = 95
"""Percentile of the degree among genes of like expression, from which a gene is drawn as a hub."""
WHOLE = [patheffects.withStroke(linewidth=2.2, foreground="white", alpha=0.9)]


def network(
    network: Any,
    statistics: Any = None,
    *,
    context: str | None = None,
    n_genes: int = 40,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw the most connected genes of a context and the edges among them.

    Parameters
    ----------
    network
        What `tl.gene_network` returned.
    statistics
        What `tl.network_statistics` made of it: colours and markers are then modules, and a ring marks hubs, whose
        degree is among the highest 5 % of genes of like expression.
    context
        Which context, the first by default.
    n_genes
        How many genes; those with most neighbours.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write it to.

    Returns
    -------
    The axes. The more neighbours a gene has in the whole network, the larger its dot; the greater its weight, the
    darker an edge.

    Raises
    ------
    DataError
        There is no such context.
    """
    check_drawable(network, "contexts to_networkx", "what pg.tl.gene_network returned")
    nx = extras.load("networkx")
    context = network.contexts[0] if context is None else context
    whole = network.to_networkx(context)
    degree = dict(whole.degree)
    chosen = sorted(whole, key=lambda gene: (-degree[gene], gene))[:n_genes]
    graph = whole.subgraph([gene for gene in chosen if degree[gene]])
    genes = pd.DataFrame({"module": -1, "hub_percentile": 50.0}, index=list(graph))
    if statistics is not None:
        own = statistics.genes[statistics.genes["context"] == context].set_index("gene")
        genes = own.loc[genes.index, ["module", "hub_percentile"]]
    place = _layout(nx, graph)
    ax = axes_for(ax, show=show, size=(6.4, 5.6))
    _edges(ax, graph, place)
    _genes(ax, genes, place, degree, legend=statistics is not None)
    ax.set_axis_off()
    ax.margins(0.06)
    n_linked = sum(n > 0 for n in degree.values())
    title = f"{context}: {len(genes)} of {n_linked} linked genes, {network.by} edges"
    ax.set_title(title, fontsize="medium", loc="left")
    return finish(ax, show=show, save=save)


def _layout(nx: Any, graph: Any) -> dict[str, np.ndarray]:
    """Lay out each connected part by itself, and the parts in rows, so that none lies on another."""
    place: dict[str, np.ndarray] = {}
    x = y = height = 0.0
    parts = sorted(nx.connected_components(graph), key=lambda part: (-len(part), min(part)))
    room = np.sqrt(len(graph))
    for part in parts:
        own, size = graph.subgraph(part), np.sqrt(len(part))
        at = nx.kamada_kawai_layout(own, weight=None, pos=nx.circular_layout(sorted(own)))
        if x and x + size > room * 1.3:
            x, y, height = 0.0, y - height, 0.0
        for gene, xy in at.items():
            place[gene] = np.array([x + size / 2, y - size / 2]) + 0.42 * size * np.asarray(xy)
        x, height = x + size, max(height, size)
    return place


def _edges(ax: Axes, graph: Any, place: dict[str, np.ndarray]) -> None:
    weights = {pair: graph.edges[pair]["weight"] for pair in graph.edges}
    low, high = min(weights.values(), default=0), max(weights.values(), default=1)
    for (a, b), weight in weights.items():
        strength = (weight - low) / (high - low) if high > low else 1.0
        ax.plot(
            *zip(place[a], place[b], strict=True), color="0.35", alpha=0.15 + 0.55 * strength, linewidth=0.8, zorder=1
        )


def _genes(
    ax: Axes, genes: pd.DataFrame, place: dict[str, np.ndarray], degree: dict[str, int], *, legend: bool
) -> None:
    most = max((degree[gene] for gene in genes.index), default=1)
    for module, part in genes.groupby("module"):
        known = 0 <= int(module) < len(COLOURS)
        colour, marker = (COLOURS[int(module)], MARKERS[int(module)]) if known else (OTHERS, "o")
        x, y = np.array([place[gene] for gene in part.index]).T
        sizes = [30 + 190 * degree[gene] / most for gene in part.index]
        rings = ["black" if hub >= HUB else "white" for hub in part["hub_percentile"]]
        widths = [1.6 if hub >= HUB else 0.6 for hub in part["hub_percentile"]]
        ax.scatter(x, y, s=sizes, color=colour, marker=marker, edgecolors=rings, linewidths=widths, zorder=2)
        if known and legend:
            ax.scatter([], [], s=45, color=colour, marker=marker, label=f"module {int(module) + 1}")
    for gene in genes.index:
        x, y = place[gene]
        over: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 7}
        ax.annotate(gene, (x, y), (0, 7), zorder=3, path_effects=WHOLE, **over)
    if legend:
        if (genes["hub_percentile"] >= HUB).any():
            label = "hub among genes\nof like expression"
            ax.scatter([], [], s=45, facecolors="none", edgecolors="black", linewidths=1.6, label=label)
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def degree_distribution(
    statistics: Any,
    *,
    contexts: list[str] | None = None,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw how many genes have how many neighbours or more, with the verdict on a power law for each context.

    Parameters
    ----------
    statistics
        What `tl.network_statistics` returned.
    contexts
        Which contexts, at most six; by default the first six.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write it to.

    Returns
    -------
    The axes, both logarithmic. A dashed line is the fitted power law over the tail, where one was fitted; it says
    nothing about whether the degrees follow it, which the verdict over all thresholds in the legend does.

    Raises
    ------
    DataError
        There is no such context, or there are more than six.
    """
    check_drawable(statistics, "genes power_law verdicts", "what pg.tl.network_statistics returned")
    genes, laws = statistics.genes, statistics.power_law
    there = list(genes["context"].unique())
    chosen = there[: len(COLOURS)] if contexts is None else list(contexts)
    if (unknown := [one for one in chosen if one not in there]) or len(chosen) > len(COLOURS):
        wrong = f"there is no {unknown[0]!r}" if unknown else f"{len(chosen)} contexts are too many for one picture"
        msg = f"{wrong}: name up to {len(COLOURS)} of {', '.join(there)}."
        raise DataError(msg)
    verdicts = statistics.verdicts.set_index("context")["verdict"]
    ax = axes_for(ax, show=show, size=(5.6, 4.2))
    for number, context in enumerate(chosen):
        degrees = np.sort(genes.loc[(genes["context"] == context) & (genes["degree"] > 0), "degree"].to_numpy())
        values, first = np.unique(degrees, return_index=True)
        share = 1 - first / len(degrees)
        label = f"{context}: {verdicts[context].partition(':')[0]}"
        ax.plot(values, share, MARKERS[number], color=COLOURS[number], markersize=3.5, label=label)
        law = laws[laws["context"] == context].iloc[-1]  # the densest network, whose degrees are drawn
        if np.isfinite(law["exponent"]):
            tail = values[values >= law["x_min"]]
            begin = share[values >= law["x_min"]][0]
            fitted = begin * zeta(law["exponent"], tail) / zeta(law["exponent"], law["x_min"])
            ax.plot(tail, fitted, "--", color=COLOURS[number], linewidth=1.2)
    ax.set(xscale="log", yscale="log", xlabel="neighbours of a gene", ylabel="share of genes with so many or more")
    title = "a power law? over all thresholds"
    ax.legend(frameon=False, fontsize="small", loc="lower left", title=title, title_fontsize="small")
    return finish(ax, show=show, save=save)
