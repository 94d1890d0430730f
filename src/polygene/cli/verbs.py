"""The commands over cells: each calls the verb of its name in `polygene.tl` with the options that were given."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from polygene.cli import options as o
from polygene.cli.console import print_all
from polygene.model.shipped import DEFAULT
from polygene.runtime.distributed import process_group


def annotate(
    cells: o.Cells,
    model: o.Model = DEFAULT,
    given: o.Given = None,
    predict: Annotated[
        str | None, typer.Option(help="Phenotypes to predict.", show_default="all that are not given")
    ] = None,
    coverage: o.Coverage = None,
    layer: o.Layer = None,
    totals: o.Totals = None,
    back_off: o.BackOff = None,
    out: o.Out = None,
) -> None:
    """Predict cell type, tissue, sex, age and disease of each cell."""
    _call("annotate", locals())


def embed(
    cells: o.Cells,
    model: o.Model = DEFAULT,
    key_added: Annotated[str, typer.Option(help="Name of the embedding in obsm.")] = "X_polygene",
    layer: o.Layer = None,
    totals: o.Totals = None,
    out: o.Out = None,
) -> None:
    """Embed each cell, for neighbours, clusters and UMAP."""
    _call("embed", locals())


def denoise(
    cells: o.Cells,
    model: o.Model = DEFAULT,
    output: o.Output = "expression",
    panel: Annotated[
        Literal["measured", "all"],
        typer.Option(help="The genes that the file measures, as a layer; or the whole panel, as a new file."),
    ] = "measured",
    given: o.Given = None,
    layer: o.Layer = None,
    totals: o.Totals = None,
    out: o.Copy = None,
) -> None:
    """Predict the expression of each gene from the other genes of its cell."""
    _call("denoise", locals())


def finetune(
    cells: o.Cells,
    label: Annotated[str, typer.Option(help="Column of obs with the labels to learn.")],
    out: Annotated[Path, typer.Option(help="Folder of the new model; it must not exist.")],
    model: o.Model = DEFAULT,
    how: Annotated[
        Literal["head", "all"],
        typer.Option(help="Fit a head on the frozen network (seconds), or train all weights (minutes)."),
    ] = "head",
    donor: o.Donor = "donor_id",
    layer: o.Layer = None,
    totals: o.Totals = None,
    seed: o.Seed = 0,
) -> None:
    """Fine-tune a model on labels of your own; the result is a normal model for all commands."""
    _call("finetune", locals())
    from polygene.cli.describe import describe

    print_all(describe(out))


def generate(
    out: o.NewCells,
    labels: o.Labels = None,
    model: o.Model = DEFAULT,
    n_cells: Annotated[int, typer.Option(help="How many cells.")] = 100,
    predict: Annotated[str | None, typer.Option(help="Phenotypes whose labels are drawn too.")] = None,
    genes: o.FixedGenes = None,
    counts: Annotated[bool, typer.Option("--counts", help="Add whole counts as a layer.")] = False,
    steps: o.Steps = 32,
    temperature: o.Temperature = 1.0,
    seed: o.Seed = 0,
) -> None:
    """Draw cells that have these labels: what the model learned of such cells, no measurement."""
    given = locals()
    _call("generate", given | {"labels": o.pairs(labels, "--label", "cell_type=B cell"), "genes": o.fixed_bins(genes)})


def balance(
    cells: o.Cells,
    out: o.NewCells,
    model: o.Model = DEFAULT,
    key: Annotated[str, typer.Option(help="The phenotype whose labels are to have equally many cells.")] = "cell_type",
    n_cells: Annotated[
        int | None, typer.Option(help="Cells of a label afterwards.", show_default="as the most frequent label")
    ] = None,
    given: Annotated[str | None, typer.Option(help="Phenotypes that generated cells take from real ones.")] = None,
    layer: o.Layer = None,
    totals: o.Totals = None,
    steps: o.Steps = 32,
    temperature: o.Temperature = 1.0,
    seed: o.Seed = 0,
) -> None:
    """Add generated cells to rare labels, marked in obs. Class weights and oversampling train better classifiers."""
    _call("balance", locals())


def perturb(
    cells: o.Cells,
    out: Annotated[Path, typer.Option(help="The table of effects (.csv, .parquet). A stopped run goes on.")],
    model: o.Model = DEFAULT,
    knock_out: Annotated[
        str | None, typer.Option(help="Genes to remove together, such as CD79A,MS4A1; or all, one after another.")
    ] = None,
    over_express: Annotated[
        str | None, typer.Option(help="Genes to raise together; or all, one after another.")
    ] = None,
    predict: Annotated[str | None, typer.Option(help="Phenotypes to predict.", show_default="all")] = None,
    genes: Annotated[str | None, typer.Option(help="Genes whose expression is predicted too, or all.")] = None,
    donor: o.Donor = "donor_id",
    layer: o.Layer = None,
    totals: o.Totals = None,
) -> None:
    """Remove or raise genes, and rank how the predictions change: associations, not mechanisms."""
    _call("perturb", locals())


def counterfactual(
    cells: o.Cells,
    out: Annotated[Path, typer.Option(help="Where the table of genes goes (.csv, .parquet).")],
    changes: o.Changes,
    model: o.Model = DEFAULT,
    given: Annotated[
        str | None,
        typer.Option(help="Phenotypes whose labels stay as control tokens.", show_default="all others in obs"),
    ] = None,
    groupby: Annotated[
        str | None, typer.Option(help="Column of obs; each of its labels gets rows of its own, such as cell_type.")
    ] = None,
    donor: o.Donor = "donor_id",
    n_repeats: Annotated[int, typer.Option(help="How often the genes of a cell are halved.")] = 2,
    layer: o.Layer = None,
    totals: o.Totals = None,
    seed: o.Seed = 0,
) -> None:
    """Predict how each gene changes if a phenotype were another: association, not intervention."""
    _call("counterfactual", locals() | {"changes": o.label_changes(changes)})


ALL = (annotate, embed, denoise, finetune, generate, balance, perturb, counterfactual)
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
        if cells:  # before torch is imported, which takes seconds
            from polygene.io.read import open_cells

            open_cells(*cells, layer=options.get("layer"))
        from polygene import tl

        getattr(tl, verb)(*cells, **options)
    if verb != "finetune":
        print_all([f"written to {options['out']}"])
