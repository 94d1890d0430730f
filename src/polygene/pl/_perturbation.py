"""Perturbation: the largest effects as points with their intervals over donors."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, check_drawable, finish, from_uns

UNITS = {"embedding": "distance moved", "expression": "change of expected log1p counts per 10,000"}


def perturbation(
    effects: pd.DataFrame | ad.AnnData,
    *,
    target: str | None = None,
    perturbation: str | None = None,
    n_names: int = 20,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw the largest effects: of every perturbation on one target, or of one perturbation on every gene.

    Parameters
    ----------
    effects
        What `tl.perturb` returned, or the AnnData that it was written into.
    target
        A label, "distance", "years" or a gene: one row for each perturbation of a scan.
    perturbation
        Such as "GATA1 KO": one row for each gene whose expression was predicted.
    n_names
        How many rows, the largest effect first.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write it to.

    Returns
    -------
    The axes. Lines are 95 % intervals over donors; a single donor has none.

    Raises
    ------
    DataError
        There are no effects, or neither or both of `target` and `perturbation` are given.
    """
    table = from_uns(effects, "perturb", "effects", "pg.tl.perturb(adata, model, knock_out='all')")
    check_drawable(table, "target perturbation effect", "what pg.tl.perturb returned")
    rows, title, unit, names = _chosen(table, target, perturbation)
    largest = np.argsort(-rows["effect"].abs().to_numpy(), kind="stable")[:n_names]
    rows, names = rows.iloc[largest], [names[i] for i in largest]
    at, low, high = np.arange(len(rows)), rows["low"].to_numpy(), rows["high"].to_numpy()
    known = np.isfinite(low)
    ax = axes_for(ax, show=show, size=(4.6, 1.0 + 0.2 * len(rows)))
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.hlines(at[known], low[known], high[known], color="0.5", linewidth=1.2)
    ax.scatter(rows["effect"], at, s=16, color="tab:red", linewidths=0, zorder=3)
    ax.set_yticks(at, names, fontsize="x-small")
    ax.invert_yaxis()
    what = "donors" if (rows["replicates"] == "donors").all() else "cells"
    ax.set_title(title, fontsize="medium")
    ax.set_xlabel(f"{unit}\n95 % interval over {what}; association, not mechanism")
    return finish(ax, show=show, save=save)


def _chosen(
    effects: pd.DataFrame, target: str | None, perturbation: str | None
) -> tuple[pd.DataFrame, str, str, list[str]]:
    """Choose the rows of the picture, its title, the unit of its effects and the names of its rows."""
    if (target is None) == (perturbation is None):
        msg = "Give either a target, such as 'B cell', or a perturbation, such as 'GATA1 KO'."
        raise DataError(msg)
    column, value = ("target", target) if target is not None else ("perturbation", perturbation)
    rows = effects[effects[column] == value]
    if perturbation is not None:
        rows = rows[rows["effect_on"] == "expression"]
    if not len(rows):
        there = ", ".join(map(str, effects[column].unique()[:10]))
        why = "" if target is not None else " on the expression of genes (run perturb with genes='all')"
        msg = f"There is no effect of {value!r}{why}; the table has the {column}s {there}."
        raise DataError(msg)
    if target is None:
        return rows, f"{value} on other genes", UNITS["expression"], rows["target"].tolist()
    kind = str(rows["effect_on"].iloc[0])
    unit = "change in years" if target == "years" else UNITS.get(kind, f"change of the probability of {target}")
    sides = {name.rsplit(" ", 1)[-1] for name in rows["perturbation"]}
    short = rows["perturbation"].str.rsplit(" ", n=1).str[0] if len(sides) == 1 else rows["perturbation"]
    titles = {"KO": "knock-out of one gene", "OE": "over-expression of one gene"}
    what = titles[sides.pop()] if len(sides) == 1 else "perturbations"
    return rows, f"{what}: {kind}, {target}", unit, short.tolist()
