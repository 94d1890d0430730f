"""Perturbation: a volcano of effects, how large against how far outside those of genes of like expression."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, finish

SIZE = (5.6, 4.4)  # inches
LOWEST_P = 1e-30
UNITS = {"embedding": "distance moved", "expression": "change of expected log1p counts per 10,000"}


def perturbation(
    effects: pd.DataFrame | ad.AnnData,
    *,
    target: str | None = None,
    perturbation: str | None = None,
    n_names: int = 10,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw effects as a volcano: of every perturbation on one target, or of one perturbation on every gene.

    Parameters
    ----------
    effects
        What `tl.perturb` returned, or the AnnData that it was written into.
    target
        A label, "distance", "years" or a gene; the points are the perturbations of a scan.
    perturbation
        Such as "GATA1 KO"; the points are the genes whose expression was asked.
    n_names
        How many points have a name, those farthest out first.
    ax, show, save
        Where to draw, as in scanpy.

    Raises
    ------
    DataError
        There are no effects, neither or both of `target` and `perturbation` are given, or nothing is drawn of them.
    """
    if isinstance(effects, ad.AnnData):
        if "perturb" not in effects.uns.get("polygene", {}):
            msg = "uns['polygene'] has no 'perturb': run pg.tl.perturb(adata, model, knock_out='all') first."
            raise DataError(msg)
        effects = effects.uns["polygene"]["perturb"]["effects"]
    rows, title, unit, names = _chosen(effects, target, perturbation)
    x, y = rows["effect"].to_numpy(), -np.log10(rows["p"].clip(lower=LOWEST_P)).to_numpy()
    found = (rows["q"] < 0.05).to_numpy()
    ax = axes_for(ax, show=show, size=SIZE)
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.scatter(x[~found], y[~found], s=10, color="0.65", linewidths=0, label="q ≥ 0.05")
    ax.scatter(x[found], y[found], s=16, color="tab:red", linewidths=0, label="q < 0.05")
    ax.margins(x=0.2, y=0.08)
    _name(ax, x, y, names, n_names)
    what = "donors are the replicates" if (rows["replicates"] == "donors").all() else "cells are the replicates"
    ax.set_title(title, fontsize="medium")
    ax.set(xlabel=f"{unit}\n{what}; association, not mechanism", ylabel="−log10 p, against genes of like expression")
    ax.legend(frameon=False, fontsize="small", loc="best")
    return finish(ax, show=show, save=save)


def _chosen(
    effects: pd.DataFrame, target: str | None, perturbation: str | None
) -> tuple[pd.DataFrame, str, str, list[str]]:
    """Pick the rows of the picture, its title, the unit of its effects and the names of its points."""
    if (target is None) == (perturbation is None):
        msg = "Give either a target, such as 'B cell', or a perturbation, such as 'GATA1 KO'."
        raise DataError(msg)
    column, value = ("target", target) if target is not None else ("perturbation", perturbation)
    rows = effects[(effects[column] == value) & effects["p"].notna()]
    if perturbation is not None:
        rows = rows[rows["effect_on"] == "expression"]
    if not len(rows):
        there = ", ".join(map(str, effects[column].unique()[:10]))
        why = "with a p-value" if target is not None else "on the expression of genes (ask with genes='all')"
        msg = f"There is no effect of {value!r} {why}; the table has the {column}s {there}."
        raise DataError(msg)
    if target is None:
        return rows, f"{value} on other genes", UNITS["expression"], rows["target"].tolist()
    kind = str(rows["effect_on"].iloc[0])
    unit = "change in years" if target == "years" else UNITS.get(kind, f"change of the probability of {target}")
    sides = {name.rsplit(" ", 1)[-1] for name in rows["perturbation"]}
    short = rows["perturbation"].str.rsplit(" ", n=1).str[0] if len(sides) == 1 else rows["perturbation"]
    said = {"KO": "knock-out of one gene", "OE": "over-expression of one gene"}
    return rows, f"{said[sides.pop()] if len(sides) == 1 else 'perturbations'}: {kind}, {target}", unit, short.tolist()


def _name(ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str], n_names: int) -> None:
    """Write names outwards of the points, each at a height of its own."""
    step = 0.045 * max(float(np.ptp(y)), 1e-9)
    taken: dict[bool, list[float]] = {True: [], False: []}
    out = y / max(float(y.max()), 1e-9) + np.abs(x) / max(float(np.abs(x).max()), 1e-9)
    chosen = np.argsort(-out, kind="stable")[:n_names]
    for i in chosen[np.argsort(-y[chosen], kind="stable")]:
        right = bool(x[i] >= 0)
        height = min([float(y[i]), *(other - step for other in taken[right])])
        taken[right].append(height)
        reach = 0.03 * max(float(np.ptp(x)), 1e-9)
        ax.annotate(
            names[i], (x[i], y[i]), (x[i] + (reach if right else -reach), height), fontsize="x-small",
            ha="left" if right else "right", va="center", arrowprops={"arrowstyle": "-", "color": "0.7", "lw": 0.5},
        )  # fmt: skip
