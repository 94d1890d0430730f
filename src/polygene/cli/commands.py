"""The command line: thin commands that call the public verbs and print.

Nothing heavy is imported before a command has its arguments, so `polygene --help` answers at once. An error that a user
can cause is one message, with exit code 2.
"""

import gc
import logging
import os
import shlex
import sys
import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from polygene.cli import verbs
from polygene.cli.console import Commands, console, print_all, print_error
from polygene.cli.options import Layer, Model, Overwrite, pairs
from polygene.errors import DataError, RecipeError
from polygene.runtime.ranks import one_process, rank

QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
LEAN = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "GOMP_SPINCOUNT": "3000"}
"""oneDNN keeps what it made for the last 1,024 shapes, over 0.4 GB; rows of cells rarely have the same shape twice.
Threads that wait for each other spin, which on a busy computer takes the core from the one they wait for: shortly is
enough (docs/decisions.md)."""
SHARED = ("train", *(verb.__name__ for verb in verbs.SHARED))
"""Commands whose processes share the work under torchrun; the others refuse to start there."""
SEVERAL = (
    "With several GPUs: torchrun --nproc-per-node=gpu -m polygene {} … The processes share the cells, and must see the "
    "same folder of OUT."
)
COLUMN = "Read a phenotype, or donor_id, from this column; repeatable."
PART = "Only the K-th of N parts, such as 3/16, which polygene join joins: for several machines."
WHERE = "Cells of a SOMA experiment, such as \"tissue_general == 'lung' and is_primary_data == True\"."
SOURCE = "A recipe, or a corpus, whose size decides the recipe."

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        print_error(
            f"{type(error).__name__}: {error}. This is a mistake in PolyGene: POLYGENE_TRACEBACK=1 shows where."
        )
        sys.exit(1)
    finally:
        gc.freeze()  # as it ends Python looks for garbage, in what torch imports for half a second


@app.callback()
def polygene(ctx: typer.Context) -> None:
    """A masked language model over single cells: annotate and embed cells, train on your own."""
    from rich.logging import RichHandler

    logger = logging.getLogger("polygene")
    logger.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    handler = RichHandler(
        console=console(stderr=True), show_time=False, show_path=False, markup=False, highlighter=None
    )
    logger.handlers = [handler]
    if ctx.invoked_subcommand not in SHARED:
        one_process(f"polygene {ctx.invoked_subcommand}")


for verb in verbs.ALL:
    app.command(epilog=SEVERAL.format(verb.__name__) if verb in verbs.SHARED else None)(verb)


@app.command()
def prepare(
    files: Annotated[list[str], Argument(metavar="CELLS.h5ad...", help="Files of cells, globs, or soma://PATH.")],
    out: Annotated[Path, Option(help="Folder of the corpus; it must not exist.")],
    genes: Annotated[int | None, Option(help="How many genes the panel holds.", show_default="512")] = None,
    include_genes: Annotated[Path | None, Option(help="File of genes that the panel must hold, one a line.")] = None,
    split: Annotated[str | None, Option(help="What is held out: donor, study or random.", show_default="donor")] = None,
    column: Annotated[list[str] | None, Option(metavar="NAME=COLUMN", help=COLUMN)] = None,
    layer: Layer = None,
    where: Annotated[str | None, Option(help=WHERE)] = None,
    num_proc: Annotated[int, Option(min=1, help="Processes that share the work.")] = 1,
    config: Annotated[Path | None, Option(help="TOML with any fields of PrepareConfig, such as binning.")] = None,
    part: Annotated[str | None, Option(metavar="K/N", help=PART)] = None,
) -> None:
    """Make a corpus: hold out donors, rank genes, turn cells into tokens."""
    from polygene.corpus.parts import prepare_part
    from polygene.corpus.prepare import PrepareConfig
    from polygene.corpus.prepare import prepare as make_corpus
    from polygene.runtime.toml import build, read_toml

    columns = pairs(column, "--column", "sex=sex_inferred")
    options = {
        "n_genes": genes,
        "include_genes": _lines(include_genes) if include_genes else None,
        "split": split,
        "donor": columns.pop("donor_id", None),
        "phenotypes": columns or None,
        "layer": layer,
        "where": where,
    }
    table = (read_toml(config) if config else {}) | {key: value for key, value in options.items() if value is not None}
    settings = build(PrepareConfig, table)
    if part is not None:
        prepare_part(files, out, part, config=settings, num_proc=num_proc)
        print_all([f"written to {out}; once all parts are there: polygene join PARTS --out CORPUS"])
        return
    _describe(make_corpus(files, out, config=settings, num_proc=num_proc).folder, brief=True)


@app.command()
def join(
    parts: Annotated[list[Path], Argument(metavar="PART...", help="Folders of all parts, in any order.")],
    out: Annotated[Path, Option(help="Folder of the corpus; it must not exist.")],
) -> None:
    """Join the parts of a corpus that several machines prepared."""
    from polygene.corpus.parts import join as join_parts

    _describe(join_parts(parts, out).folder, brief=True)


@app.command()
def train(
    source: Annotated[Path | None, Argument(metavar="RECIPE.toml | CORPUS", help=SOURCE)] = None,
    out: Annotated[Path | None, Option(help="Folder of the model; in place of the one of a recipe.")] = None,
    write_recipe: Annotated[
        Path | None, Option(metavar="MINE.toml", help="Only write the recipe, with comments.")
    ] = None,
    restart: Annotated[bool, Option("--restart", help="Begin anew, in place of going on with a stopped run.")] = False,
) -> None:
    """Train a model as a recipe says, or with defaults for a corpus; a run that was stopped goes on."""
    from polygene.training import defaults

    if source is None and write_recipe is None:
        msg = "What is trained is missing: polygene train RECIPE.toml, or polygene train CORPUS --out RUN."
        raise RecipeError(msg)
    if write_recipe is not None:
        defaults.write_recipe(source, write_recipe, out)
        print_all([f"written to {write_recipe}; train with: polygene train {write_recipe}"])
        return
    recipe = defaults.find_recipe(source or "", out)
    from polygene.training.train import train as train_recipe

    train_recipe(recipe, restart=restart)
    _describe(Path(recipe.out), brief=True)


@app.command()
def evaluate(
    corpus: Annotated[Path, Argument(metavar="CORPUS", help="Folder of the corpus, whose test cells are scored.")],
    model: Model,
    out: Annotated[
        Path | None, Option(metavar="METRICS.json", help="Where all numbers go.", show_default="in your model")
    ] = None,
    report: Annotated[
        Path | None, Option(metavar="REPORT.html", help="Also write tables and pictures as a page.")
    ] = None,
    seed: Annotated[int, Option(help="Decides which genes are masked, and the resamples of donors.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Score a model on held-out donors, beside baselines."""
    from polygene.corpus.corpus import Corpus
    from polygene.model.folder import DECISIVE, METRICS, OPTIONAL
    from polygene.model.shipped import MODELS
    from polygene.runtime.atomic import atomic_file, refuse_input
    from polygene.runtime.json import write_json
    from polygene.vocab.tokenizer import FILES

    opened, folder = Corpus(corpus), Path(model).resolve()
    own = folder.is_dir() and not folder.is_relative_to(MODELS)  # a shipped or Hub model has no place for numbers
    file = out or (folder / METRICS if own else None)
    if file:  # --out may name a file of the model or of the corpus
        in_corpus = (corpus / name for name in (*FILES, "corpus.json"))
        refuse_input(file, *(folder / name for name in (*DECISIVE, *OPTIONAL)), *in_corpus)
    with ExitStack() as stack:
        part = stack.enter_context(atomic_file(file, (".json",), overwrite=overwrite or not out)) if file else None
        page = stack.enter_context(atomic_file(report, (".html",), overwrite=overwrite)) if report else None
        from polygene.evaluation.evaluate import evaluate as score
        from polygene.model.checkpoint import PolyGene

        network = PolyGene.from_pretrained(model)
        results = score(network, opened, seed=seed)
        if part:
            write_json(part, replace(network.metrics, test=results.to_dict()).to_dict())
        if page:
            from polygene.evaluation.report import write_report

            write_report(page, results, network, opened, command=shlex.join(["polygene", *sys.argv[1:]]))
    numbers = f"All numbers are in {file}" if file else "Keep all numbers with --out METRICS.json"
    tables = f"all tables in {report}" if report else "read all tables with --report REPORT.html"
    print_all([results.summary(), f"{numbers}; {tables}."])


@app.command()
def demo(
    out: Annotated[Path, Option(help="Folder for what the demo makes.")] = Path("polygene-demo"),
    seed: Annotated[int, Option(help="Decides the held-out cells.")] = 0,
) -> None:
    """Annotate 700 real blood cells, learn the labels of their authors, and draw both; needs no network and no file."""
    from polygene.cli.demo import run

    print_all(run(out, seed=seed))


@app.command("app")
def page(
    cells: Annotated[str | None, Argument(metavar="CELLS.h5ad", help="A file that the page shows first.")] = None,
    model: Annotated[
        Path | None, Option(metavar="FOLDER", help="A checkpoint of your own, beside the models that ship.")
    ] = None,
    host: Annotated[str, Option(help="Address to listen on; any but this computer's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Where; if it is taken, any that is free.")] = 8787,
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open a browser.")] = True,
) -> None:
    """Open the local page: drop a file, see what the cells are, ask "what if". The data stay on this computer."""
    from polygene.app import serve

    serve(cells, model=model, host=host, port=port, browser=browser)


@app.command()
def info(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="A checkpoint, the name of one that ships, or a corpus.")],
) -> None:
    """Describe a checkpoint or a corpus."""
    _describe(folder)


@app.command()
def models() -> None:
    """List the models that ship with PolyGene, and what they know."""
    from polygene.cli.describe import describe_shipped

    print_all([describe_shipped()])


def _lines(path: Path) -> list[str]:
    from polygene.runtime.files import loading, read_text

    with loading(path, DataError, "give a text file of genes, one a line"):
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _describe(folder: Path, *, brief: bool = False) -> None:
    from polygene.cli.describe import describe

    print_all(describe(folder, brief=brief))
