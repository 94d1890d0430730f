"""The command line: one thin command a verb.

Nothing heavy is imported before a command has its arguments, so `polygene --help` answers at once. What a user can get
wrong is told in one message, with exit code 2.
"""

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from polygene.errors import PhenotypeError, PolyGeneError, RecipeError
from polygene.runtime.distributed import rank

if TYPE_CHECKING:
    from polygene.io.write import Answers
    from polygene.model.checkpoint import PolyGene

WRONG_INPUT = 2
STOPPED = 130  # as shells count an interrupt
QUIET = {
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
LEAN = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8", "GOMP_SPINCOUNT": "3000"}
"""oneDNN keeps what it made for the last 1,024 shapes, over 0.4 GB; rows of cells rarely have the same shape twice.
Threads that wait for each other spin, which on a busy computer takes the core from the one they wait for: shortly is
enough (docs/performance.md)."""


class Commands(TyperGroup):
    """The commands, and what is said when one of them fails."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; turn what a user can get wrong into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except PolyGeneError as error:
            message, code = str(error), WRONG_INPUT
        except OSError as error:
            message, code = f"{error.filename}: {error.strerror}" if error.filename else str(error), WRONG_INPUT
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand in ("train", "perturb")
            again = "; the same command goes on from the last saved state" if goes_on else ""
            message, code = f"stopped{again}", STOPPED
        if rank() == 0 or ctx.invoked_subcommand == "train":  # the others' errors are told by the first
            _say(message)
        raise typer.Exit(code)


def _say(message: str) -> None:
    typer.secho(f"polygene: {message}", err=True, fg=typer.colors.RED)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CellsFile = Annotated[str, typer.Argument(metavar="CELLS.h5ad", help="Cells with counts or log1p values.")]
Model = Annotated[
    str, typer.Option(help="Checkpoint folder, a model that ships (polygene-512), or a repository of the Hub.")
]
Out = Annotated[
    Path, typer.Option(help="A copy of the cells with the answers (.h5ad), or only the answers (.csv, .parquet).")
]
Copy = Annotated[Path, typer.Option(help="Where the cells go with the answers (.h5ad).")]
Given = Annotated[str, typer.Option(help="Phenotypes whose labels are known, such as tissue,sex.")]
Output = Annotated[
    Literal["expression", "expressed"],
    typer.Option(help="Expected log1p counts per 10,000, or the probability of being expressed."),
]
Layer = Annotated[str | None, typer.Option(help="Read this layer, or 'raw', in place of X.")]
Totals = Annotated[
    str | None,
    typer.Option(help="Column of obs with each cell's counts over the whole genome, if genes were left out."),
]
Donor = Annotated[str, typer.Option(help="Column of obs that holds the donor.")]
NewCells = Annotated[Path, typer.Option(metavar="CELLS.h5ad", help="Where the cells go.")]
Seed = Annotated[int, typer.Option(help="Decides everything that is drawn.")]


def main() -> None:
    """Run the command line, without the warnings that other packages raise to their developers."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name, value in (QUIET | LEAN).items():
        os.environ.setdefault(name, value)
    try:
        app(prog_name="polygene")
    except Exception as error:
        if os.environ.get("POLYGENE_TRACEBACK"):
            raise
        _say(f"{type(error).__name__}: {error}. This is a mistake in PolyGene: POLYGENE_TRACEBACK=1 shows where.")
        sys.exit(1)


@app.callback()
def polygene() -> None:
    """A masked language model over single cells: annotate and embed cells, train on your own."""
    from rich.logging import RichHandler

    logger = logging.getLogger("polygene")
    logger.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    handler = RichHandler(
        console=_console(stderr=True), show_time=False, show_path=False, markup=False, highlighter=None
    )
    logger.handlers = [handler]


@app.command()
def prepare(
    files: Annotated[list[str], typer.Argument(metavar="CELLS.h5ad...", help="Files of cells, or globs.")],
    out: Annotated[Path, typer.Option(help="Folder of the corpus; it must not exist.")],
    genes: Annotated[int | None, typer.Option(help="How many genes the panel holds.", show_default="512")] = None,
    include_genes: Annotated[
        Path | None, typer.Option(help="Text file of genes that must be in the panel, one a line.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="What is held out: donor, study or random.", show_default="donor")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COLUMN", help="Read a phenotype, or donor_id, from this column; repeatable."),
    ] = None,
    layer: Layer = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
    config: Annotated[Path | None, typer.Option(help="TOML with any fields of PrepareConfig, such as binning.")] = None,
) -> None:
    """Make a corpus: hold out donors, rank genes, turn cells into tokens."""
    from polygene.corpus.prepare import PrepareConfig
    from polygene.corpus.prepare import prepare as make_corpus
    from polygene.runtime.toml import build, read_toml

    columns = dict(_name_and_value(text, "--column", "sex=sex_inferred") for text in column or ())
    said = {
        "n_genes": genes,
        "include_genes": _lines(include_genes) if include_genes else None,
        "split": split,
        "donor": columns.pop("donor_id", None),
        "phenotypes": columns or None,
        "layer": layer,
    }
    table = (read_toml(config) if config else {}) | {key: value for key, value in said.items() if value is not None}
    corpus = make_corpus(files, out, config=build(PrepareConfig, table), num_proc=num_proc, progress=True)
    _describe(corpus.folder)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What to train on, what, how, and where to.")],
) -> None:
    """Train a model as a recipe says; a run that was stopped goes on."""
    from polygene.model.recipe import Recipe

    said = Recipe.load(recipe)
    from polygene.training.train import train as train_recipe

    train_recipe(said)
    _describe(Path(said.out))


@app.command()
def annotate(
    cells: CellsFile,
    out: Out,
    model: Model,
    given: Given = "",
    predict: Annotated[str, typer.Option(help="Phenotypes to ask; all that are not given by default.")] = "",
    coverage: Annotated[
        float | None, typer.Option(help="Also write sets of labels that hold the true one so often, such as 0.9.")
    ] = None,
    layer: Layer = None,
    totals: Totals = None,
    back_off: Annotated[
        float | None, typer.Option(metavar="0.9", help="Name a broader cell type where none is as probable as this.")
    ] = None,
) -> None:
    """Predict phenotypes of cells.

    With several GPUs: torchrun --nproc-per-node=gpu -m polygene annotate. The processes share the cells out, and must
    see the same folder of OUT.
    """

    def verb(network: "PolyGene") -> "Answers":
        from polygene.tl._annotate import annotation

        asked = _names(predict) if predict else None
        return annotation(
            cells,
            network,
            given=_names(given),
            predict=asked,
            coverage=coverage,
            layer=layer,
            totals=totals,
            back_off=back_off,
        )

    _answer(verb, cells, out, model, layer)


@app.command()
def embed(cells: CellsFile, out: Out, model: Model, layer: Layer = None, totals: Totals = None) -> None:
    """Place cells in the model's space.

    With several GPUs: torchrun --nproc-per-node=gpu -m polygene embed. The processes share the cells out, and must see
    the same folder of OUT.
    """

    def verb(network: "PolyGene") -> "Answers":
        from polygene.tl._embed import embedding

        return embedding(cells, network, layer=layer, totals=totals)

    _answer(verb, cells, out, model, layer)


@app.command()
def denoise(
    cells: CellsFile,
    out: Copy,
    model: Model,
    output: Output = "expression",
    given: Given = "",
    layer: Layer = None,
    totals: Totals = None,
) -> None:
    """Answer each panel gene from the rest of its cell: a layer in a copy of the cells.

    With several GPUs: torchrun --nproc-per-node=gpu -m polygene denoise. The processes share the cells out, and must
    see the same folder of OUT.
    """

    def verb(network: "PolyGene") -> "Answers":
        from polygene.tl._denoise import denoising

        return denoising(cells, network, output=output, given=_names(given), layer=layer, totals=totals)

    _answer(verb, cells, out, model, layer, (".h5ad",))


@app.command()
def impute(
    cells: CellsFile,
    out: Copy,
    model: Model,
    output: Output = "expression",
    given: Given = "",
    layer: Layer = None,
    totals: Totals = None,
) -> None:
    """Answer the whole panel, also genes that were never measured: a new file.

    With several GPUs: torchrun --nproc-per-node=gpu -m polygene impute. The processes share the cells out, and must see
    the same folder of OUT.
    """

    def verb(network: "PolyGene") -> "Answers":
        from polygene.tl._impute import imputation

        return imputation(cells, network, output=output, given=_names(given), layer=layer, totals=totals)

    _answer(verb, cells, out, model, layer, (".h5ad",))


@app.command()
def classify(
    cells: CellsFile,
    out: Out,
    model: Model,
    key: Annotated[str, typer.Option(help="Column of obs to learn; cells that have a label get a held-out answer.")],
    reference: Annotated[str | None, typer.Option(metavar="CELLS.h5ad", help="Learn from these cells instead.")] = None,
    donor: Donor = "donor_id",
    layer: Layer = None,
    totals: Totals = None,
) -> None:
    """Learn a label of your own from some cells, and answer for the others."""

    def verb(network: "PolyGene") -> "Answers":
        from polygene.tl._classify import classification

        return classification(cells, network, key=key, reference=reference, donor=donor, layer=layer, totals=totals)

    _answer(verb, cells, out, model, layer)


@app.command()
def finetune(
    cells: CellsFile,
    out: Annotated[Path, typer.Option(help="Folder of the new model; it must not exist.")],
    model: Model,
    label: Annotated[str, typer.Option(help="Column of obs to learn.")],
    how: Annotated[
        Literal["head", "all"],
        typer.Option(help="Fit a head on the frozen network (seconds), or train it (minutes)."),
    ] = "head",
    donor: Donor = "donor_id",
    layer: Layer = None,
    totals: Totals = None,
    seed: Seed = 0,
) -> None:
    """Teach a model labels of your own: a new model that is asked like any other."""
    from polygene.model.checkpoint import PolyGene
    from polygene.tl._finetune import finetune as teach

    network = PolyGene.from_pretrained(model)
    teach(cells, network, label=label, out=out, how=how, donor=donor, layer=layer, totals=totals, seed=seed)
    _describe(out)


@app.command()
def generate(
    out: NewCells,
    model: Model,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LABEL", help="A control token, such as 'cell_type=memory B cell'; repeatable."),
    ] = None,
    n_cells: Annotated[int, typer.Option(help="How many cells.")] = 100,
    predict: Annotated[str, typer.Option(help="Phenotypes whose labels are drawn too.")] = "",
    counts: Annotated[bool, typer.Option("--counts", help="Add whole counts as a layer.")] = False,
    steps: Annotated[int | None, typer.Option(help="Steps in which genes are drawn.", show_default="32")] = None,
    seed: Seed = 0,
) -> None:
    """Draw cells to order, from control tokens: what the model believes such cells to be, no measurement."""
    from polygene.io.write import written_beside

    labels = dict(_name_and_value(text, "--label", "cell_type=B cell") for text in label or ())
    with written_beside(out, (".h5ad",)) as part:
        from polygene.model.checkpoint import PolyGene
        from polygene.model.sampling import SamplingConfig
        from polygene.tl._generate import generate as draw

        sampling = SamplingConfig() if steps is None else SamplingConfig(steps=steps)
        adata = draw(
            PolyGene.from_pretrained(model),
            labels,
            n_cells=n_cells,
            predict=_names(predict),
            counts=counts,
            seed=seed,
            sampling=sampling,
        )
        adata.write_h5ad(part)
    _print([f"written to {out}"])


@app.command()
def balance(
    cells: CellsFile,
    out: NewCells,
    model: Model,
    key: Annotated[str, typer.Option(help="The phenotype whose labels are to be even.")] = "cell_type",
    n_cells: Annotated[
        int | None, typer.Option(help="Cells of a label afterwards.", show_default="as the most frequent one")
    ] = None,
    given: Annotated[str, typer.Option(help="Phenotypes that generated cells take over from real ones.")] = "",
    layer: Layer = None,
    totals: Totals = None,
    seed: Seed = 0,
) -> None:
    """Add generated cells to rare labels; obs says which they are."""
    from polygene.io.read import open_cells
    from polygene.io.write import written_beside

    with written_beside(out, (".h5ad",)) as part:
        open_cells(cells, layer=layer)
        from polygene.model.checkpoint import PolyGene
        from polygene.tl._balance import balance as add_cells

        network = PolyGene.from_pretrained(model)
        adata = add_cells(
            cells,
            network,
            key=key,
            n_cells=n_cells,
            given=_names(given),
            layer=layer,
            totals=totals,
            seed=seed,
        )
        adata.write_h5ad(part)
    _print([f"written to {out}"])


@app.command()
def perturb(
    cells: CellsFile,
    out: Annotated[Path, typer.Option(help="The table of effects (.csv, .parquet). A stopped run goes on.")],
    model: Model,
    knock_out: Annotated[
        str, typer.Option(help="Genes to remove together, such as CD79A,MS4A1; or all, in turn.")
    ] = "",
    over_express: Annotated[str, typer.Option(help="Genes to raise together; or all, in turn.")] = "",
    predict: Annotated[str, typer.Option(help="Phenotypes to ask; all by default.")] = "",
    genes: Annotated[str, typer.Option(help="Genes whose expected expression is asked, or all.")] = "",
    donor: Donor = "donor_id",
    layer: Layer = None,
) -> None:
    """Remove or raise genes, and tell how the model's answers change: associations, not mechanisms."""
    from polygene.io.read import open_cells

    open_cells(cells, layer=layer)  # a mistake is told before anybody has to wait for torch
    from polygene.model.checkpoint import PolyGene
    from polygene.tl._perturb import perturb as perturb_cells

    def which(text: str) -> str | list[str]:
        return text if text == "all" else _names(text)

    perturb_cells(
        cells,
        PolyGene.from_pretrained(model),
        knock_out=which(knock_out),
        over_express=which(over_express),
        predict=_names(predict) if predict else None,
        genes=which(genes),
        donor=donor,
        layer=layer,
        out=out,
    )
    _print([f"written to {out}"])


@app.command()
def counterfactual(
    cells: CellsFile,
    out: Annotated[Path, typer.Option(help="Where the table of genes goes (.csv, .parquet).")],
    model: Model,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=LABEL",
            help="The new label of a phenotype, such as sex=male, or both, 'sex=female->male'; repeatable.",
        ),
    ],
    given: Annotated[
        str | None,
        typer.Option(help="Phenotypes whose labels stay as control tokens.", show_default="all others in obs"),
    ] = None,
    groupby: Annotated[
        str | None, typer.Option(help="Column of obs of which each label gets rows of its own, such as cell_type.")
    ] = None,
    donor: Donor = "donor_id",
    layer: Layer = None,
    totals: Totals = None,
) -> None:
    """Read what would be expected of each gene, were a phenotype another: association, not intervention."""
    from polygene.io.read import open_cells
    from polygene.io.write import write_table, written_beside

    changes = _changes(set_)
    with written_beside(out, (".csv", ".parquet")) as part:
        open_cells(cells, layer=layer)
        from polygene.model.checkpoint import PolyGene
        from polygene.tl._counterfactual import counterfactual as ask

        table = ask(
            cells,
            PolyGene.from_pretrained(model),
            changes,
            given=None if given is None else _names(given),
            groupby=groupby,
            donor=donor,
            layer=layer,
            totals=totals,
        )
        write_table(part, table)
    _print([f"written to {out}"])


@app.command()
def evaluate(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", help="Folder of the corpus, whose test cells are scored.")
    ],
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(metavar="METRICS.json", help="Where scores go.", show_default="metrics.json of the checkpoint"),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="REPORT.html", help="Also write one page that shows all, for reading.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides what is hidden, and the resamples of donors.")] = 0,
) -> None:
    """Score a model on held-out cells, beside honest baselines."""
    from polygene.corpus.corpus import Corpus
    from polygene.io.write import written_beside
    from polygene.runtime.json import write_json

    opened = Corpus(corpus)
    file = out or (Path(model) if Path(model).is_dir() else Path()) / "metrics.json"
    with written_beside(file, (".json",)) as part, ExitStack() as stack:
        page = stack.enter_context(written_beside(report, (".html",))) if report else None
        from polygene.evaluation.evaluate import evaluate as score
        from polygene.evaluation.tables import tables
        from polygene.model.checkpoint import PolyGene

        network = PolyGene.from_pretrained(model)
        results = score(network, opened, seed=seed)
        write_json(part, replace(network.metrics, test=results).to_dict())
        if page:
            from polygene.evaluation.report import write_report

            options = {"--model": model, "--out": out, "--report": report, "--seed": seed}
            said = [word for option, value in options.items() if value is not None for word in (option, str(value))]
            write_report(
                page, results, network, opened, command=shlex.join(["polygene", "evaluate", str(corpus), *said])
            )
    _print([*tables(results), f"written to {file}{f' and {report}' if report else ''}"])


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for what the demo makes.")] = Path("polygene-demo"),
    seed: Annotated[int, typer.Option(help="Decides the held-out cells.")] = 0,
) -> None:
    """Annotate 700 real blood cells, learn the labels of their authors, and draw both; needs no network and no file."""
    from polygene.cli.demo import run

    _print(run(out, seed=seed))


@app.command()
def info(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A checkpoint, the name of one that ships, or a corpus.")
    ],
) -> None:
    """Describe a checkpoint or a corpus."""
    _describe(folder)


@app.command()
def models() -> None:
    """List the models that ship with PolyGene, and what they know."""
    from polygene.cli.describe import describe_shipped

    _print(describe_shipped())


def _answer(
    verb: Callable[["PolyGene"], "Answers"],
    cells: str,
    out: Path,
    model: str,
    layer: str | None,
    suffixes: tuple[str, ...] = (".h5ad", ".csv", ".parquet"),
) -> None:
    """Load what is needed, cheapest first, so that a mistake is told before anybody has to wait for torch."""
    from polygene.io.read import open_cells
    from polygene.io.write import answers_to

    with answers_to(out, suffixes) as write:
        open_cells(cells, layer=layer)
        from polygene.model.checkpoint import PolyGene

        write(verb(PolyGene.from_pretrained(model)))
    _print([f"written to {out}"])


def _describe(folder: Path) -> None:
    from polygene.cli.describe import describe

    _print(describe(folder))


def _print(things: Iterable[Any]) -> None:
    console = _console(quiet=rank() > 0)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str))


def _console(**options: Any) -> Any:
    from rich.console import Console

    console = Console(highlight=False, markup=False, **options)
    if not console.is_terminal:
        console.width = 160  # a file is as wide as a table
    return console


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _changes(texts: Iterable[str]) -> dict[str, str | tuple[str, str]]:
    changes: dict[str, str | tuple[str, str]] = {}
    for text in texts:
        name, labels = _name_and_value(text, "--set", "sex=male")
        before, arrow, after = (word.strip() for word in labels.partition("->"))
        if name in changes:
            msg = f"--set names {name} twice, in {text!r} too: a cell has one label of it."
            raise PhenotypeError(msg)
        changes[name] = (before, after) if arrow else before
    return changes


def _name_and_value(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        msg = f"{option} has a name and a value, such as {example!r}; got {text!r}"
        raise RecipeError(msg)
    return name, value


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
