"""The command line: every verb once; every wrong input gives one message, exit code 2, and leaves nothing behind."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner, Result

from polygene.cli.commands import SHARED, app, main
from polygene.cli.options import default_out
from polygene.corpus.corpus import Corpus
from polygene.model.checkpoint import PolyGene
from polygene.model.recipe import Recipe
from polygene.model.shipped import DEFAULT, NAMES
from polygene.tl import annotate, counterfactual, denoise

MakeAnnData = Callable[..., ad.AnnData]

RECIPE = """
corpus = "{folder}/corpus"
out = "{folder}/model"

[network]
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32

[training]
epochs = 1
evaluations = 1
"""


@pytest.fixture(autouse=True)
def _logger_as_before() -> Iterator[None]:
    logger = logging.getLogger("polygene")
    before = logger.level, logger.handlers
    yield
    logger.level, logger.handlers = before


@pytest.fixture(scope="module")
def made(make_adata: MakeAnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells, and the corpus and the model that the commands made of them."""
    folder = tmp_path_factory.mktemp("made")
    make_adata(150, 30).write_h5ad(folder / "cells.h5ad")
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder.as_posix()))
    for command in (
        ("prepare", folder / "cells.h5ad", "--out", folder / "corpus", "--genes", 20),
        ("train", folder / "recipe.toml"),
    ):
        result = polygene(*command)
        assert result.exit_code == 0, result.output
    return folder


def polygene(*arguments: Any) -> Result:
    texts = [str(argument) for argument in arguments]
    with patch("sys.argv", ["polygene", *texts]):
        return CliRunner().invoke(app, texts)


def refusal(result: Result) -> str:
    """Check that a command failed as it should, and return its message."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    said = [line for line in result.stderr.splitlines() if line.startswith("polygene: ")]
    assert len(said) == 1
    assert "Traceback" not in result.output
    return said[0]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_command_has_a_help_text() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert names == [
        *("annotate", "vote", "embed", "denoise", "finetune", "generate", "balance", "perturb", "counterfactual"),
        *("prepare", "join", "train", "evaluate", "demo", "app", "info", "models"),
    ]
    for name in names:
        assert polygene(name, "--help").exit_code == 0


def test_prepare_passes_its_options_on(made: Path, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("GENE3\nGENE7\n")
    (tmp_path / "config.toml").write_text('binning = "binary"\nseed = 3\nn_genes = 9\n')
    result = polygene(
        "prepare", made / "*.h5ad", "--out", tmp_path / "corpus", "--genes", 7, "--split", "random",
        "--column", "treatment=donor_id", "--include-genes", tmp_path / "genes.txt", "--num-proc", 2,
        "--config", tmp_path / "config.toml",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    corpus = Corpus(tmp_path / "corpus")
    assert len(corpus.tokenizer.panel) == 7
    assert {"GENE3", "GENE7"} <= set(corpus.tokenizer.panel.symbols)
    assert corpus.tokenizer.binner.kind == "binary"
    assert corpus.tokenizer.schema.names[-1] == "treatment"
    assert (corpus.split_word, corpus.info["config"]["seed"]) == ("random", 3)
    assert "cells, not donors" in result.stdout


def test_annotate_writes_a_copy_with_the_predictions_of_the_verb(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5ad"
    result = polygene(
        "annotate", made / "cells.h5ad", "--out", out, "--model", made / "model",
        "--given", "tissue, sex", "--predict", "cell_type,disease",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    before, after = ad.read_h5ad(made / "cells.h5ad"), ad.read_h5ad(out)
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    assert [name for name in after.obs if not name.startswith("polygene_")] == list(before.obs)
    expected = before.copy()
    annotate(expected, made / "model", given=["sex", "tissue"], predict=["cell_type", "disease"])
    assert set(after.obsm) == {"polygene_cell_type", "polygene_disease"}
    np.testing.assert_allclose(after.obsm["polygene_cell_type"], expected.obsm["polygene_cell_type"], atol=1e-6)
    assert list(after.uns["polygene"]["annotate"]["given"]) == ["sex", "tissue"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


def test_what_a_verb_warns_of_is_printed_once(made: Path, tmp_path: Path) -> None:
    cells = ad.read_h5ad(made / "cells.h5ad")
    cells.var["feature_types"] = ["Antibody Capture"] + ["Gene Expression"] * (cells.n_vars - 1)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    result = polygene("annotate", tmp_path / "cells.h5ad", "--out", tmp_path / "out.csv", "--model", made / "model")
    assert result.exit_code == 0, result.output
    assert " ".join(result.output.split()).count("left out are features that are none: 1 Antibody Capture") == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_annotate_and_embed_write_tables_of_results(suffix: str, made: Path, tmp_path: Path) -> None:
    for verb, column in (("annotate", "polygene_cell_type"), ("embed", "X_polygene_15")):
        out = tmp_path / f"{verb}{suffix}"
        assert polygene(verb, made / "cells.h5ad", "--out", out, "--model", made / "model").exit_code == 0
        table = pd.read_csv(out, index_col="cell") if suffix == ".csv" else pd.read_parquet(out)
        assert column in table
        assert table.index[0] == "cell0"
        assert len(table) == 150


@pytest.mark.parametrize("panel", ["measured", "all"])
def test_denoise_writes_what_the_verb_predicts(panel: str, made: Path, tmp_path: Path) -> None:
    cells, out = ad.read_h5ad(made / "cells.h5ad"), tmp_path / "out.h5ad"
    options = ("--out", out, "--model", made / "model", "--given", "cell_type", "--output", "expressed")
    result = polygene("denoise", made / "cells.h5ad", *options, "--panel", panel)
    assert result.exit_code == 0, result.output
    new = denoise(cells, made / "model", given="cell_type", output="expressed", panel=panel)  # type: ignore[arg-type]
    written = ad.read_h5ad(out)
    found = written.layers["polygene_expressed"].toarray() if panel == "measured" else written.X
    expected = cells.layers["polygene_expressed"].toarray() if new is None else new.X
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "out.csv"], "must end with .h5ad"),
        (["--out", "out.parquet", "--panel", "all"], "must end with .h5ad"),
        (["--out", "out.h5ad", "--layer", "raw"], "pass adata.raw.to_adata()"),
        (["--out", "out.h5ad", "--panel", "all", "--given", "cell_typ"], "Did you mean 'cell_type'"),
        (["--out", "out.h5ad", "--layer", "counts"], "counts"),
    ],
)
def test_a_wrong_option_of_denoise_is_refused(
    options: list[str], says: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = ad.read_h5ad(made / "cells.h5ad")
    cells.raw = cells.copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    assert says in refusal(polygene("denoise", "cells.h5ad", "--model", made / "model", *options))
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_cells_may_be_annotated_in_place_when_told(made: Path, tmp_path: Path) -> None:
    cells = shutil.copy(made / "cells.h5ad", tmp_path / "cells.h5ad")
    here, before = ("--out", cells, "--model", made / "model"), cells.read_bytes()
    assert "would replace" in refusal(polygene("annotate", cells, *here))
    assert "genes would be lost" in refusal(polygene("denoise", cells, *here, "--panel", "all", "--overwrite"))
    assert cells.read_bytes() == before
    assert polygene("annotate", cells, *here, "--predict", "sex", "--overwrite").exit_code == 0
    assert polygene("embed", cells, *here, "--overwrite").exit_code == 0
    adata = ad.read_h5ad(cells)
    assert {"X_polygene", "polygene_sex"} <= set(adata.obsm)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("annotate", "cells.h5ad", "--predict", "sex"), "out.csv"),
        (("vote", "annotated.h5ad", "--groupby", "donor_id"), "out.h5ad"),
        (("embed", "cells.h5ad"), "out.parquet"),
        (("denoise", "cells.h5ad"), "out.h5ad"),
        (("denoise", "cells.h5ad", "--panel", "all"), "out.h5ad"),
        (("generate", "--n-cells", 2, "--steps", 1), "out.h5ad"),
        (("balance", "cells.h5ad", "--steps", 1), "out.h5ad"),
        (("perturb", "cells.h5ad", "--knock-out", "GENE4", "--predict", "sex"), "out.csv"),
        (("counterfactual", "cells.h5ad", "--set", "sex=male"), "out.parquet"),
        (("evaluate", "corpus"), "out.json"),
        (("evaluate", "corpus", "--out", "new.json", "--report"), "out.html"),
    ],
    ids=lambda one: "-".join(map(str, one[:3:2])) if isinstance(one, tuple) else one,
)
def test_an_output_that_is_there_is_refused_before_the_work_and_replaced_when_told(
    words: tuple[Any, ...], name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("cells.h5ad", "corpus", "model"):
        Path(file).symlink_to(made / file)
    if words[0] == "vote":
        assert polygene("annotate", "cells.h5ad", "--model", "model", "--out", "annotated.h5ad").exit_code == 0
    Path(name).write_text("mine")
    model = () if words[0] == "vote" else ("--model", "model")
    command = [words[0], *model, *words[1:], *([] if words[-1] == "--report" else ["--out"]), name]
    with monkeypatch.context() as patch:
        for work in ("tl._reader.CellReader.__init__", "tl._generate.draw_adata", "evaluation.evaluate.predict_split"):
            patch.setattr(f"polygene.{work}", lambda *_, **__: pytest.fail("the work began"))
        said = refusal(polygene(*command))
    assert f"{name!r} exists: " in " ".join(said.split())
    assert "or replace it with overwrite=True (--overwrite)" in said
    assert Path(name).read_text() == "mine"
    result = polygene(*command, "--overwrite")
    assert result.exit_code == 0, result.output
    assert Path(name).read_bytes() != b"mine"


def test_finetune_writes_a_model_that_annotate_uses(made: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(made / "cells.h5ad")
    adata.obs["mine"] = adata.obs["cell_type"].where(np.arange(150) % 3 > 0)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    options = ("--label", "mine", "--out", tmp_path / "model", "--model", made / "model")
    result = polygene("finetune", tmp_path / "cells.h5ad", *options)
    assert result.exit_code == 0, result.output
    assert "cross-validated macro-F1" in result.stderr
    assert "obs['mine']" in result.stdout
    assert polygene("annotate", tmp_path / "cells.h5ad", "--model", tmp_path / "model").exit_code == 0
    assert ad.read_h5ad(tmp_path / "cells.polygene.h5ad").obs["polygene_mine"].notna().all()


def test_annotate_needs_nothing_but_cells_and_prints_where_the_results_are(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = shutil.copy(made / "cells.h5ad", tmp_path / "blood.h5ad")
    monkeypatch.setattr("polygene.model.shipped.folder_of", lambda name: made / "model" if name == DEFAULT else name)
    monkeypatch.setattr("polygene.model.checkpoint.folder_of", lambda name: made / "model" if name == DEFAULT else name)
    result = polygene("annotate", cells)
    assert result.exit_code == 0, result.output
    assert f"written to {tmp_path / 'blood.polygene.h5ad'}" in result.stdout
    assert "polygene_cell_type" in ad.read_h5ad(tmp_path / "blood.polygene.h5ad").obs
    before = content(tmp_path)
    assert "exists: read it to add to its results, choose another file (--out), or" in refusal(polygene("embed", cells))
    assert content(tmp_path) == before
    assert polygene("embed", cells, "--overwrite").exit_code == 0
    assert list(ad.read_h5ad(tmp_path / "blood.polygene.h5ad").obsm) == ["X_polygene"]


@pytest.mark.parametrize(
    ("cells", "out"),
    [
        ("data/blood.h5ad", "data/blood.polygene.h5ad"),
        ("blood.zarr", "blood.polygene.h5ad"),
        ("run/filtered_feature_bc_matrix", "run/filtered_feature_bc_matrix.polygene.h5ad"),
        ("run/matrix.mtx.gz", "run/matrix.polygene.h5ad"),
        ("https://example.org/data/blood.h5ad?download=1", "blood.polygene.h5ad"),
        ("s3://bucket/blood.v2.h5ad", "blood.v2.polygene.h5ad"),
    ],
)
def test_results_go_beside_a_file_and_of_a_url_into_the_current_folder(cells: str, out: str) -> None:
    assert default_out(cells) == Path(out)


def test_perturb_writes_a_table_with_its_note(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "effects.csv"
    symbols = PolyGene.from_pretrained(made / "model").tokenizer.panel.symbols
    options = ("--out", out, "--model", made / "model", "--predict", "sex")
    named = ("--knock-out", f"{symbols[0]},{symbols[1]}", "--over-express", symbols[2], "--genes", symbols[3])
    result = polygene("perturb", made / "cells.h5ad", *options, *named)
    assert result.exit_code == 0, result.output
    assert "not mechanisms" in result.stderr
    table = pd.read_csv(out)
    assert set(table["perturbation"]) == {f"{symbols[0]} KO + {symbols[1]} KO + {symbols[2]} OE"}
    assert list(table["target"]) == ["female", "male", "distance", symbols[3]]
    assert set(table["evidence"]) == {"association"}
    before = content(tmp_path)
    for wrong, says in (("GENE", "Did you mean"), ("", "No gene is named")):
        again = polygene("perturb", made / "cells.h5ad", *options, "--overwrite", "--knock-out", wrong)
        assert says in refusal(again)
        assert content(tmp_path) == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_counterfactual_writes_the_table_of_the_verb(suffix: str, made: Path, tmp_path: Path) -> None:
    out = tmp_path / f"genes{suffix}"
    result = polygene(
        "counterfactual", made / "cells.h5ad", "--out", out, "--model", made / "model", "--set", "sex=female -> male",
        "--set", "cell_type=B cell", "--given", "tissue", "--groupby", "disease",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "association in the training data, not the effect of an intervention" in " ".join(result.stderr.split())
    table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    expected = counterfactual(
        made / "cells.h5ad",
        PolyGene.from_pretrained(made / "model"),
        {"sex": ("female", "male"), "cell_type": "B cell"},
        given=["tissue"],
        groupby="disease",
    )
    pd.testing.assert_frame_equal(table, expected, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "sex"], "--set has a name and a value"),
        (["--set", "sex=female->"], "does not know the label ''"),
        (["--set", "sex=male", "--set", "sex=female"], "names sex twice"),
        (["--set", "sex=males"], "the nearest is 'male'"),
        (["--set", "sxe=male"], "Did you mean 'sex'"),
        (["--set", "sex=male", "--given", "sex"], "given and changed at once"),
        (["--set", "disease=normal"], "knows one label only"),
        (["--set", "cell_type=B cell", "--donor", "patient"], "no column 'patient'"),
        (["--set", "sex=male", "--out", "genes.h5ad"], "must end with .csv or .parquet"),
    ],
)
def test_wrong_changes_are_refused(options: list[str], says: str, made: Path, tmp_path: Path) -> None:
    options = options if "--out" in options else [*options, "--out", str(tmp_path / "genes.csv")]
    result = polygene("counterfactual", made / "cells.h5ad", "--model", made / "model", *options)
    assert says in refusal(result)
    assert not list(tmp_path.iterdir())


def test_evaluate_prints_one_table_and_keeps_the_numbers_with_the_model(made: Path, tmp_path: Path) -> None:
    model = shutil.copytree(made / "model", tmp_path / "model")
    result = polygene("evaluate", made / "corpus", "--model", model)
    assert result.exit_code == 0, result.output
    assert "regression" in result.stdout
    assert len(result.stdout.splitlines()) <= 24
    assert f"All numbers are in {model / 'metrics.json'}; read all tables with --report" in result.stdout
    metrics = json.loads((model / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert set(metrics) == {"corpus", "validation", "test"}
    assert PolyGene.from_pretrained(model).metrics.to_dict() == metrics
    options = ("--out", tmp_path / "scores.json", "--report", tmp_path / "report.html")
    elsewhere = polygene("evaluate", made / "corpus", "--model", model, *options)
    assert elsewhere.exit_code == 0
    assert json.loads((tmp_path / "scores.json").read_text())["test"] == metrics["test"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert " ".join(["polygene evaluate", str(made / "corpus"), "--model", str(model), *map(str, options)]) in page


def test_evaluating_a_shipped_model_writes_only_where_out_says(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped_models = tmp_path / "package"
    shutil.copytree(made / "model", shipped_models / "model")
    monkeypatch.setattr("polygene.model.shipped.MODELS", shipped_models)
    monkeypatch.setattr("polygene.model.shipped.NAMES", ("model",))
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    before = content(tmp_path)
    for model in ("model", shipped_models / "model"):
        result = polygene("evaluate", made / "corpus", "--model", model)
        assert result.exit_code == 0, result.output
        assert "Keep all numbers with --out" in result.stdout
        assert content(tmp_path) == before
    assert polygene("evaluate", made / "corpus", "--model", "model", "--out", "mine.json").exit_code == 0
    assert set(json.loads((here / "mine.json").read_text())) == {"corpus", "validation", "test"}
    assert set(content(tmp_path)) - set(before) == {"here/mine.json"}


def test_a_negative_seed_is_refused_by_evaluate(made: Path) -> None:
    says = refusal(polygene("evaluate", made / "corpus", "--model", made / "model", "--seed", "-1"))
    assert "the seed is -1" in says


def test_evaluate_refuses_a_report_that_cannot_be_written_and_leaves_nothing(made: Path, tmp_path: Path) -> None:
    options = ("--model", made / "model", "--out", tmp_path / "scores.json")
    for report in (tmp_path / "report.pdf", tmp_path / "nowhere" / "report.html"):
        assert report.name in refusal(polygene("evaluate", made / "corpus", *options, "--report", report))
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("corpus", ["20 genes", "donors", "cell_type", "monocyte", "validation"]),
        ("model", ["16 wide", "B cell", "loss", "temperature", "train cells", "donors"]),
        ("polygene-512", ["512 genes", "F16"]),
    ],
)
def test_info_describes(folder: str, says: list[str], made: Path) -> None:
    result = polygene("info", folder if folder.startswith("polygene") else made / folder)
    assert result.exit_code == 0, result.output
    for word in says:
        assert word in result.stdout


def test_models_lists_those_that_ship() -> None:
    result = polygene("models")
    assert result.exit_code == 0, result.output
    for word in (*NAMES, "cell type", "B cell", "README.md"):
        assert word in result.stdout


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def with_x(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        adata = ad.read_h5ad(path)
        adata.X = change(adata.X)
        adata.write_h5ad(path)

    return rewrite


def with_genes(names: Callable[[int], str]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        adata = ad.read_h5ad(path)
        adata.var.index = pd.Index([names(g) for g in range(adata.n_vars)])
        adata.write_h5ad(path)

    return rewrite


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: path.write_text("cell,gene\n"), "not an .h5ad file"),
        (cut, "cut off or damaged"),
        (lambda path: ad.AnnData(np.zeros((0, 3), np.float32)).write_h5ad(path), "empty"),
        (with_x(lambda x: x * np.float32("nan")), "NaN"),
        (with_x(lambda x: x.toarray() - x.mean()), "scaled"),
        (with_genes("OTHER{}".format), "None of the 20 genes"),
        (with_genes("Cd{}a".format), "of mouse or rat"),
        (with_genes("Gene{}".format), "are names of human genes"),
        (with_genes(str), "numbers"),
    ],
    ids=[
        "missing",
        "text",
        "cut off",
        "empty",
        "NaN",
        "scaled",
        "other genes",
        "mouse",
        "placeholders",
        "numbers for genes",
    ],
)
@pytest.mark.parametrize("verb", ["annotate", "embed"])
def test_cells_that_cannot_be_read(
    verb: str, spoil: Callable[[Path], Any], says: str, made: Path, tmp_path: Path
) -> None:
    cells = Path(shutil.copy(made / "cells.h5ad", tmp_path / "cells.h5ad"))
    spoil(cells)
    before = content(tmp_path)
    assert says in refusal(polygene(verb, cells, "--out", tmp_path / "out.h5ad", "--model", made / "model"))
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--given", "sex", "--predict", "sex"], "given and predicted at once"),
        (["--predict", "cell_typ"], "Did you mean 'cell_type'"),
        (["--given", "disease"], "does not know the label 'COVID'"),
        (["--given", "age"], "no column 'development_stage'"),
        (["--layer", "counts"], "no layer 'counts'"),
        (["--totals", "n_counts"], "no column 'n_counts'"),
        (["--back-off", "0.5"], "above 0.5 and at most 1"),
        (["--out", "answers.txt"], "must end with"),
        (["--out", "nowhere/answers.csv"], "there is no folder"),
        (["--model", "nowhere"], "no checkpoint 'nowhere'"),
    ],
)
def test_a_wrong_option_of_annotate_is_refused(
    options: list[str], says: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    adata = ad.read_h5ad(made / "cells.h5ad")
    del adata.obs["development_stage"]
    adata.obs["disease"] = "COVID"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    before = content(tmp_path)
    arguments = {"--out": str(tmp_path / "out.csv"), "--model": str(made / "model")}
    arguments |= dict(zip(options[::2], options[1::2], strict=True))
    result = polygene("annotate", tmp_path / "cells.h5ad", *(word for pair in arguments.items() for word in pair))
    assert says in refusal(result)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("model/model.safetensors", "model.safetensors is not the file that was saved"),
        ("corpus/test/data-00000-of-00001.arrow", "is cut off or altered"),
        ("corpus/corpus.json", "corpus.json"),
    ],
)
def test_folders_that_were_cut_off(file: str, says: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    cut(tmp_path / file)
    before = content(tmp_path)
    assert says in refusal(polygene("evaluate", tmp_path / "corpus", "--model", tmp_path / "model"))
    assert content(tmp_path) == before


def test_a_corpus_of_another_tokenizer(made: Path, tmp_path: Path) -> None:
    assert polygene("prepare", made / "cells.h5ad", "--out", tmp_path / "corpus", "--genes", 5).exit_code == 0
    before = content(made)
    assert "another tokenizer" in refusal(polygene("evaluate", tmp_path / "corpus", "--model", made / "model"))
    assert content(made) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'corpus = "c"\nout = "o"\n[training]\nepoch = 3\n',
            "unknown key training.epoch: did you mean training.epochs",
        ),
        ('corpus = "c"\nout = "o"\n[training]\nepochs = "3"\n', "training.epochs is '3'"),
        ('corpus = "c"\n', "lacks out"),
        ("corpus = ", "cannot be read"),
        ('corpus = "nowhere"\nout = "o"\n', "nowhere is no corpus"),
    ],
)
def test_wrong_recipes_are_refused(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(text)
    assert says in refusal(polygene("train", "recipe.toml"))
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_a_recipe_is_written_for_a_corpus_and_nothing_trained(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = polygene("train", made / "corpus", "--write-recipe", "mine.toml")
    assert result.exit_code == 0, result.stderr
    assert "polygene train mine.toml" in result.stdout
    recipe = Recipe.load("mine.toml")
    assert (recipe.corpus, recipe.out) == (str(made / "corpus"), "runs/mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "polygene train CORPUS --out RUN"), (["corpus"], "--out RUN"), (["cells.h5ad"], "polygene prepare")],
)
def test_training_without_a_recipe_names_what_is_missing(arguments: list[str], says: str, made: Path) -> None:
    assert says in refusal(polygene("train", *(made / name for name in arguments)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--column", "sex"], "--column has a name and a value"),
        (["--column", "sex=gender"], "no column 'gender' in obs"),
        (["--split", "donors"], "'donor' or 'study' or 'random'"),
        (["--column", "donor_id=patient"], "no column 'patient'"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_wrong_options_of_prepare_are_refused(options: list[str], says: str, made: Path, tmp_path: Path) -> None:
    result = polygene("prepare", made / "cells.h5ad", "--out", tmp_path / "corpus", *options)
    assert says in refusal(result)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_replaced(made: Path) -> None:
    before = content(made / "corpus")
    assert "exists" in refusal(polygene("prepare", made / "cells.h5ad", "--out", made / "corpus"))
    assert content(made / "corpus") == before


@pytest.mark.parametrize(("name", "says"), [("", "neither a corpus"), ("nowhere", "no folder")])
def test_info_refuses_another_folder(name: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(polygene("info", tmp_path / name))


def test_info_names_what_makes_a_corpus_of_a_part(made: Path, tmp_path: Path) -> None:
    assert polygene("prepare", made / "cells.h5ad", "--part", "1/2", "--out", tmp_path / "part").exit_code == 0
    assert "polygene join makes a corpus of all parts" in refusal(polygene("info", tmp_path / "part"))


def test_an_interrupt_is_no_error_and_names_the_way_to_go_on(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("polygene.model.recipe.Recipe.load", interrupted)
    result = polygene("train", made / "recipe.toml")
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr


def test_the_installed_command_prints_one_line_and_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "polygene", "info", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("polygene: ")
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_a_mistake_of_our_own_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken(_: Any, *, brief: bool) -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    monkeypatch.setattr("polygene.cli.describe.describe", broken)
    monkeypatch.setattr("polygene.cli.commands.QUIET", {})  # the environment outlives the test
    monkeypatch.setattr("sys.argv", ["polygene", "info", "somewhere"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith("polygene: RuntimeError: a bug. This is a mistake in PolyGene")
    monkeypatch.setenv("POLYGENE_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="a bug"):
        main()


def test_only_the_first_of_several_processes_prints(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    result = polygene("info", made / "corpus")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("command", [name for name in get_command(app).commands if name not in SHARED])  # type: ignore[attr-defined]
def test_a_command_that_cannot_share_its_work_refuses_several_processes(
    command: str, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    arguments = {
        "prepare": [made / "cells.h5ad", "--out", "corpus"],
        "finetune": [made / "cells.h5ad", "--label", "cell_type", "--out", "model"],
        "generate": ["--out", "cells.h5ad"],
        "balance": [made / "cells.h5ad", "--out", "cells.h5ad"],
        "perturb": [made / "cells.h5ad", "--out", "effects.csv", "--knock-out", "all"],
        "counterfactual": [made / "cells.h5ad", "--out", "genes.csv", "--set", "sex=male"],
        "evaluate": [made / "corpus", "--model", made / "model"],
        "info": ["polygene-512"],
    }
    said = refusal(polygene(command, *arguments.get(command, [])))
    assert f"polygene {command} runs in one process, and this is one of 2" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["models", "info polygene-512", "--help"])
def test_a_reader_that_has_seen_enough_ends_a_command_silently(command: str) -> None:
    """As `polygene models | true` does."""
    program = [sys.executable, "-m", "polygene", *command.split()]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read()
        code = process.wait()
    assert said == b""
    assert code == (1 if command == "--help" else 141)


def test_what_was_trained_is_described_on_a_screen_and_info_names_every_label() -> None:
    from polygene.cli.describe import describe

    def text(*, brief: bool) -> str:
        console = Console(width=120, file=StringIO())
        for table in describe("polygene-512", brief=brief):
            console.print(table)
        return console.file.getvalue()

    assert len(text(brief=True).splitlines()) < 50
    assert "testis" in text(brief=False)
    assert "_genes" not in text(brief=False), "a number of genes is no score"
