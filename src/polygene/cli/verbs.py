"""The commands over cells: each calls the verb of its name in `polygene.tl`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from polygene.cli.console import (
    DEFAULT,
    CellsFile,
    Copy,
    Donor,
    Given,
    Layer,
    Model,
    NewCells,
    Out,
    Output,
    Seed,
    Steps,
    Table,
    Temperature,
    Totals,
    default_out,
    names,
    pairs,
    print_all,
)
from polygene.errors import RecipeError
from polygene.runtime.distributed import together


def annotate(
    cells: CellsFile,
    model: Model = DEFAULT,
    given: Given = "",
    predict: Annotated[str, typer.Option(help="Phenotypes to predict.", show_default="all that are not given")] = "",
    coverage: Annotated[
        float | None,
        typer.Option(metavar="0.9", help="Also write sets of labels that hold the true label this often."),
    ] = None,
    layer: Layer = None,
    totals: Totals = None,
    back_off: Annotated[
        float | None,
        typer.Option(metavar="0.9", help="Where the cell type is less sure than this, give a broader type."),
    ] = None,
    out: Out = None,
) -> None:
    """Predict cell type, tissue, sex, age and disease of each cell.

    With several GPUs: torchrun --nproc-per-node=gpu -m polygene annotate. The processes share the cells, and must see
    the same folder of OUT.
    """
    _over_cells(
        "annotate",
        cells,
        out or default_out(cells),
        model,
        given=names(given),
        predict=names(predict) or None,
        coverage=coverage,
        layer=layer,
        totals=totals,
        back_off=back_off,
    )


def embed(
    cells: CellsFile,
    model: Model = DEFAULT,
    key_added: Annotated[str, typer.Option(help="Name of the embedding in obsm.")] = "X_polygene",
    layer: Layer = None,
    totals: Totals = None,
    out: Out = None,
) -> None:
    """Embed each cell, for neighbours, clusters and UMAP.

    With several GPUs: torchrun --nproc-per-node=gpu -m polygene embed. The processes share the cells, and must see the
    same folder of OUT.
    """
    out = out or default_out(cells)
    _over_cells("embed", cells, out, model, key_added=key_added, layer=layer, totals=totals)


def denoise(
    cells: CellsFile,
    model: Model = DEFAULT,
    output: Output = "expression",
    panel: Annotated[
        Literal["measured", "all"],
        typer.Option(help="Genes that the file measures, as a layer; or the whole panel, as a new file."),
    ] = "measured",
    given: Given = "",
    layer: Layer = None,
    totals: Totals = None,
    out: Copy = None,
) -> None:
    """Predict the expression of each gene from the other genes of its cell.

    With several GPUs: torchrun --nproc-per-node=gpu -m polygene denoise. The processes share the cells, and must see
    the same folder of OUT.
    """
    given_names = names(given)
    out = out or default_out(cells)
    _over_cells("denoise", cells, out, model, output=output, panel=panel, given=given_names, layer=layer, totals=totals)


def finetune(
    cells: CellsFile,
    out: Annotated[Path, typer.Option(help="Folder of the new model; it must not exist.")],
    label: Annotated[str, typer.Option(help="Column of obs with the labels to learn.")],
    model: Model = DEFAULT,
    how: Annotated[
        Literal["head", "all"],
        typer.Option(help="Fit a head on the frozen network (seconds), or train all weights (minutes)."),
    ] = "head",
    donor: Donor = "donor_id",
    layer: Layer = None,
    totals: Totals = None,
    seed: Seed = 0,
) -> None:
    """Fine-tune a model on labels of your own; the result is a normal model for all commands."""
    _check_cells(cells, layer)
    from polygene import tl
    from polygene.cli.describe import describe

    tl.finetune(cells, model, label=label, out=out, how=how, donor=donor, layer=layer, totals=totals, seed=seed)
    print_all(describe(out))


def generate(
    out: NewCells,
    model: Model = DEFAULT,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=LABEL", help="Such as 'cell_type=memory B cell'; repeatable."),
    ] = None,
    n_cells: Annotated[int, typer.Option(help="How many cells.")] = 100,
    predict: Annotated[str, typer.Option(help="Phenotypes whose labels are drawn too.")] = "",
    genes: Annotated[
        list[str] | None,
        typer.Option("--gene", metavar="GENE=BIN", help="A gene with a fixed bin, 0 for not expressed; repeatable."),
    ] = None,
    counts: Annotated[bool, typer.Option("--counts", help="Add whole counts as a layer.")] = False,
    steps: Steps = 32,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
) -> None:
    """Draw cells that have these labels: what the model learned of such cells, no measurement."""
    label_of = pairs(labels, "--label", "cell_type=B cell")
    bin_of = {gene: _bin(text) for gene, text in pairs(genes, "--gene", "XIST=0").items()}
    from polygene import tl

    tl.generate(
        model,
        label_of,
        n_cells=n_cells,
        predict=names(predict),
        genes=bin_of,
        counts=counts,
        steps=steps,
        temperature=temperature,
        seed=seed,
        out=out,
    )
    print_all([f"written to {out}"])


def balance(
    cells: CellsFile,
    out: NewCells,
    model: Model = DEFAULT,
    key: Annotated[str, typer.Option(help="The phenotype whose labels are to have equally many cells.")] = "cell_type",
    n_cells: Annotated[
        int | None, typer.Option(help="Cells of a label afterwards.", show_default="as the most frequent one")
    ] = None,
    given: Annotated[str, typer.Option(help="Phenotypes that generated cells take from real ones.")] = "",
    layer: Layer = None,
    totals: Totals = None,
    steps: Steps = 32,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
) -> None:
    """Add generated cells to rare labels, marked in obs. Class weights and oversampling train better classifiers."""
    _over_cells(
        "balance",
        cells,
        out,
        model,
        key=key,
        n_cells=n_cells,
        given=names(given),
        layer=layer,
        totals=totals,
        steps=steps,
        temperature=temperature,
        seed=seed,
    )


def perturb(
    cells: CellsFile,
    out: Annotated[Path, typer.Option(help="The table of effects (.csv, .parquet). A stopped run goes on.")],
    model: Model = DEFAULT,
    knock_out: Annotated[
        str, typer.Option(help="Genes to remove together, such as CD79A,MS4A1; or all, one after another.")
    ] = "",
    over_express: Annotated[str, typer.Option(help="Genes to raise together; or all, one after another.")] = "",
    predict: Annotated[str, typer.Option(help="Phenotypes to predict.", show_default="all")] = "",
    genes: Annotated[str, typer.Option(help="Genes whose expected expression is predicted, or all.")] = "",
    donor: Donor = "donor_id",
    layer: Layer = None,
    totals: Totals = None,
) -> None:
    """Remove or raise genes, and rank how the predictions change: associations, not mechanisms."""

    def which(text: str) -> str | list[str]:
        return text if text == "all" else names(text)

    _over_cells(
        "perturb",
        cells,
        out,
        model,
        knock_out=which(knock_out),
        over_express=which(over_express),
        predict=names(predict) or None,
        genes=which(genes),
        donor=donor,
        layer=layer,
        totals=totals,
    )


def counterfactual(
    cells: CellsFile,
    out: Table,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=LABEL",
            help="The new label of a phenotype, such as sex=male, or both, 'sex=female->male'; repeatable.",
        ),
    ],
    model: Model = DEFAULT,
    given: Annotated[
        str | None,
        typer.Option(help="Phenotypes whose labels stay as control tokens.", show_default="all others in obs"),
    ] = None,
    groupby: Annotated[
        str | None, typer.Option(help="Column of obs; each of its labels gets rows of its own, such as cell_type.")
    ] = None,
    donor: Donor = "donor_id",
    n_repeats: Annotated[int, typer.Option(help="How often the genes of a cell are halved.")] = 2,
    layer: Layer = None,
    totals: Totals = None,
    seed: Seed = 0,
) -> None:
    """Predict how each gene changes if a phenotype were another: association, not intervention."""
    parsed: dict[str, str | tuple[str, str]] = {}
    for name, text in pairs(changes, "--set", "sex=male").items():
        before, arrow, after = (word.strip() for word in text.partition("->"))
        parsed[name] = (before, after) if arrow else before
    _over_cells(
        "counterfactual",
        cells,
        out,
        model,
        changes=parsed,
        given=None if given is None else names(given),
        groupby=groupby,
        donor=donor,
        n_repeats=n_repeats,
        layer=layer,
        totals=totals,
        seed=seed,
    )


ALL = (annotate, embed, denoise, finetune, generate, balance, perturb, counterfactual)


def _over_cells(verb: str, cells: str, out: Path, model: str, **options: Any) -> None:
    """Call a verb on a file; a process that fails ends the others with its message."""
    with together():
        _check_cells(cells, options["layer"])
        from polygene import tl

        getattr(tl, verb)(cells, model, out=out, **options)
    print_all([f"written to {out}"])


def _check_cells(cells: str, layer: str | None) -> None:
    """Open the cells once before torch is imported, which takes seconds: a mistake is reported at once."""
    from polygene.io.read import open_cells

    open_cells(cells, layer=layer)


def _bin(text: str) -> int:
    if not text.isdecimal():
        msg = f"--gene has a whole number of a bin, such as 'XIST=0'; got {text!r}"
        raise RecipeError(msg)
    return int(text)
