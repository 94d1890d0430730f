"""The commands over cells: each calls the verb of its name in `polygene.tl` with the options that were given."""

import gc
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from polygene.cli import options as o
from polygene.cli.console import print_all, quiet
from polygene.model.shipped import DEFAULT
from polygene.runtime import extras
from polygene.runtime.distributed import process_group

PART = "Only the K-th of N parts of the cells, such as 3/16, into a folder: for several machines."
SETS = "Also write sets of labels that hold the true label this often."
OUTPUT = "Expected log1p counts per 10,000, or the probability of being expressed."
PANEL = "The genes that the file measures, as a layer; or the whole panel, as a new file."
LABEL = "Such as 'cell_type=memory B cell'; repeatable."
GENE = "A gene with a fixed bin, 0 for not expressed; repeatable."
VOTE = "Groups that decide together, such as cell_type=leiden, which is computed if it is missing; repeatable."
GROUPS = "Column of obs with the groups: clusters for cell types, donors for sex, tissue, age and disease."
CHANGE = "The new label of a phenotype, such as sex=male, or both, 'sex=female->male'; repeatable."


def annotate(
    cells: o.Cells,
    model: o.Model = DEFAULT,
    given: o.Given = None,
    predict: Annotated[str | None, Option(help="Phenotypes to predict.", show_default="all that are not given")] = None,
    coverage: Annotated[float | None, Option(metavar="0.9", help=SETS)] = None,
    layer: o.Layer = None,
    totals: o.Totals = None,
    back_off: Annotated[
        float | None, Option(metavar="0.9", help="Give a broader cell type below this probability.")
    ] = None,
    vote: Annotated[list[str] | None, Option(metavar="NAME=COLUMN", help=VOTE)] = None,
    out: o.Out = None,
    overwrite: o.Overwrite = False,
    part: Annotated[str | None, Option(metavar="K/N", help=PART)] = None,
) -> None:
    """Predict cell type, tissue, sex, age and disease of each cell."""
    _call("annotate", locals() | {"vote": o.pairs(vote, "--vote", "cell_type=leiden") or None})


def vote(
    cells: Annotated[str, Argument(metavar="CELLS.h5ad", help="What annotate wrote.")],
    groupby: Annotated[str, Option(help=GROUPS)] = "leiden",
    phenotype: Annotated[str, Option(help="What they vote on.")] = "cell_type",
    share: Annotated[float, Option(help="A group of which less agrees is heterogeneous.")] = 0.5,
    out: o.Out = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Let the cells of each group, such as a cluster or a donor, decide together."""
    _call("vote", locals())


def embed(
    cells: o.Cells,
    model: o.Model = DEFAULT,
    states: Annotated[
        Literal["joined", "cell_type", "cls", "phenotypes", "genes", "all"], Option(help="Which hidden states.")
    ] = "joined",
    key_added: Annotated[str, Option(help="Name of the embedding in obsm.")] = "X_polygene",
    layer: o.Layer = None,
    totals: o.Totals = None,
    out: o.Out = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Embed each cell, for neighbours, clusters and UMAP."""
    _call("embed", locals())


def denoise(
    cells: o.Cells,
    model: o.Model = DEFAULT,
    output: Annotated[Literal["expression", "expressed"], Option(help=OUTPUT)] = "expression",
    panel: Annotated[Literal["measured", "all"], Option(help=PANEL)] = "measured",
    given: o.Given = None,
    layer: o.Layer = None,
    totals: o.Totals = None,
    out: o.CopyOut = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Predict the expression of each gene from the other genes of its cell."""
    _call("denoise", locals())


def finetune(
    cells: o.Cells,
    label: Annotated[str, Option(help="Column of obs with the labels to learn.")],
    out: Annotated[Path, Option(help="Folder of the new model; it must not exist.")],
    model: o.Model = DEFAULT,
    donor: o.Donor = "donor_id",
    layer: o.Layer = None,
    totals: o.Totals = None,
    seed: o.Seed = 0,
) -> None:
    """Fine-tune a model on labels of your own; the result is a normal model for all commands."""
    _call("finetune", locals())
    from polygene.cli.describe import describe

    print_all(describe(out, brief=True))


def generate(
    out: o.NewCells,
    labels: Annotated[list[str] | None, Option("--label", metavar="NAME=LABEL", help=LABEL)] = None,
    model: o.Model = DEFAULT,
    n_cells: Annotated[int, Option(help="How many cells.")] = 100,
    predict: Annotated[str | None, Option(help="Phenotypes whose labels are drawn too.")] = None,
    genes: Annotated[list[str] | None, Option("--gene", metavar="GENE=BIN", help=GENE)] = None,
    like: Annotated[str | None, Option(metavar="CELLS.h5ad", help="Draw the genes that these measure.")] = None,
    counts: Annotated[bool, Option("--counts", help="Add whole counts as a layer.")] = False,
    steps: o.Steps = 32,
    temperature: o.Temperature = 1.0,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Draw cells that have these labels: what the model learned of such cells, no measurement."""
    given = locals()
    _call("generate", given | {"labels": o.pairs(labels, "--label", "cell_type=B cell"), "genes": o.fixed_bins(genes)})


def balance(
    cells: o.Cells,
    out: o.NewCells,
    model: o.Model = DEFAULT,
    key: Annotated[str, Option(help="The phenotype whose labels are to have equally many cells.")] = "cell_type",
    n_cells: Annotated[int | None, Option(help="Cells of a label afterwards.", show_default="the most of one")] = None,
    given: Annotated[str | None, Option(help="Phenotypes that generated cells take from real ones.")] = None,
    layer: o.Layer = None,
    totals: o.Totals = None,
    steps: o.Steps = 32,
    temperature: o.Temperature = 1.0,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Add generated cells to rare labels, marked in obs. Class weights and oversampling train better classifiers."""
    _call("balance", locals())


def perturb(
    cells: o.Cells,
    out: o.TableOut,
    model: o.Model = DEFAULT,
    knock_out: Annotated[str | None, Option(help="Genes to remove together, or all, one after another.")] = None,
    over_express: Annotated[str | None, Option(help="Genes to raise together, or all, one after another.")] = None,
    predict: Annotated[str | None, Option(help="Phenotypes to predict.", show_default="all")] = None,
    genes: Annotated[str | None, Option(help="Genes whose expression is predicted too, or all.")] = None,
    donor: o.Donor = "donor_id",
    layer: o.Layer = None,
    totals: o.Totals = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Remove or raise genes, such as CD79A,MS4A1, and rank how predictions change: associations, not mechanisms.

    A run that was stopped goes on.
    """
    _call("perturb", locals())


def counterfactual(
    cells: o.Cells,
    out: o.TableOut,
    changes: Annotated[list[str], Option("--set", metavar="NAME=LABEL", help=CHANGE)],
    model: o.Model = DEFAULT,
    given: Annotated[str | None, Option(help="Phenotypes whose labels stay.", show_default="all others in obs")] = None,
    groupby: Annotated[
        str | None, Option(help="Column of obs, such as cell_type: rows for each of its labels.")
    ] = None,
    donor: o.Donor = "donor_id",
    n_repeats: Annotated[int, Option(help="How often the genes of a cell are halved.")] = 2,
    layer: o.Layer = None,
    totals: o.Totals = None,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Predict how each gene changes if a phenotype were another: association, not intervention."""
    _call("counterfactual", locals() | {"changes": o.label_changes(changes)})


ALL = (annotate, vote, embed, denoise, finetune, generate, balance, perturb, counterfactual)
SHARED = (annotate, embed, denoise)
"""Their processes share the work under torchrun."""
NAMES = ("given", "predict", "knock_out", "over_express", "genes")
"""Options that list names, with commas between."""


def _call(verb: str, options: dict[str, Any]) -> None:
    """Call a verb; an option that is not given has the default of the verb."""
    options = {name: value for name, value in options.items() if value is not None}
    for name in NAMES:
        if isinstance(text := options.get(name), str):
            options[name] = text if text == "all" else o.names(text)
    cells = [options.pop("cells")] if "cells" in options else []
    options.setdefault("out", o.default_out(*cells) if cells and "out" not in options else None)
    with process_group():  # a process that fails ends the others with its message
        if cells:  # before torch is imported, which takes seconds; the verb opens them again, and warns
            if "overwrite" in options:
                check_out = extras.load("polygene.io.write").check_out
                check_out(*cells, options["out"], overwrite=options["overwrite"], new=verb == "balance")
            with quiet():
                extras.load("polygene.io.read").open_cells(*cells, layer=options.get("layer"))
        run = getattr(extras.load("polygene.tl"), verb)
        if not gc.get_freeze_count():
            gc.freeze()  # what was imported stays: half a second less to look for garbage
        run(*cells, **options)
    if verb != "finetune":
        print_all([f"written to {options['out']}"])
