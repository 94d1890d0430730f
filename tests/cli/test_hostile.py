"""Inputs that are odd, endless or hostile: one message and exit code 2, nothing on the terminal but text."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata as ad
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from polygene import tl
from polygene.cli.commands import app
from polygene.cli.console import console, printable
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import GeneError, OutputError, PhenotypeError, RecipeError
from polygene.runtime.files import read_bytes, read_json
from polygene.runtime.toml import read_toml
from polygene.vocab.panel import GenePanel

MakeAnnData = Callable[..., ad.AnnData]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202eB cell\x9b31m"


def polygene(*arguments: Any) -> Result:
    with patch("sys.argv", ["polygene", *map(str, arguments)]):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "mistake in PolyGene" not in result.output
    return " ".join(result.output.split())


@pytest.fixture
def cells(make_adata: MakeAnnData, tmp_path: Path) -> Path:
    make_adata(40, 20).write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.mark.parametrize("verb", [("annotate",), ("embed",), ("prepare", "--out", "corpus")])
def test_a_pipe_of_cells_is_refused_and_not_waited_for(verb: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("cells.h5ad")
    assert "is a pipe or a device" in refusal(polygene(verb[0], "cells.h5ad", *verb[1:]))
    assert os.listdir() == ["cells.h5ad"]  # noqa: PTH208


@pytest.mark.parametrize("option", ["--config", "--include-genes"])
def test_an_endless_file_of_options_is_refused(option: str, cells: Path, tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    result = polygene("prepare", cells, "--out", tmp_path / "corpus", option, tmp_path / "endless")
    assert "is a pipe or a device" in refusal(result)


def test_a_file_larger_than_any_of_its_kind_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_bytes(b" " * 1001)
    with pytest.raises(OSError, match="more than the 1,000 bytes"):
        read_bytes(tmp_path / "large.json", 1000)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', "{"])
def test_json_that_cannot_be_read_is_one_kind_of_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=r"nested too deeply|NaN is no number|Expecting"):
        read_json(tmp_path / "file.json")


def test_toml_nested_too_deeply_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text(f"a = {'[' * 100_000}")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_toml(tmp_path / "deep.toml")


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--n-cells", 10**20),
        ("generate", "--n-cells", "1e20"),
        ("generate", "--n-cells", 0),
        ("generate", "--steps", 10**20),
        ("generate", "--seed", 10**20),
        ("balance", "CELLS", "--n-cells", 10**20),
        ("counterfactual", "CELLS", "--set", "sex=male", "--n-repeats", 10**20),
    ],
)
def test_numbers_that_nobody_means_are_refused_before_memory_is_taken(
    arguments: tuple[Any, ...], cells: Path, tmp_path: Path
) -> None:
    words = [cells if word == "CELLS" else word for word in arguments]
    out = tmp_path / ("out.csv" if words[0] == "counterfactual" else "out.h5ad")
    refusal(polygene(*words, "--out", out))
    assert not out.exists()


def test_memory_that_runs_out_is_told_as_that(cells: Path, tmp_path: Path, monkeypatch) -> None:
    errors = [
        MemoryError("Unable to allocate 9 EiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ]
    for error in errors:
        monkeypatch.setattr(tl, "embed", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert "memory ran out: " in refusal(polygene("embed", cells, "--out", tmp_path / "out.csv"))


@pytest.mark.parametrize("name", ["A\tB", "A\nB", "A\u2028B", "A\x85B", "A\x1bB"])
def test_gene_names_that_no_table_can_hold_are_refused_before_the_work(
    name: str, make_adata: MakeAnnData, tmp_path: Path
) -> None:
    adata = make_adata(40, 20)
    adata.var_names = [*adata.var_names[:-1], name]
    with pytest.raises(GeneError, match=r"gene 20 is named .*rename it"):
        prepare(adata, tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_a_panel_is_read_line_by_line_as_it_was_written(tmp_path: Path) -> None:
    panel = GenePanel(symbols=("A\x0bB", "C\u00a0D"), ensembl_ids=("", ""))
    panel.save(tmp_path / "genes.tsv")
    assert GenePanel.load(tmp_path / "genes.tsv") == panel


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_more_labels_than_a_phenotype_can_have_are_refused_before_the_genes_are_ranked(
    n: int, make_adata: MakeAnnData, tmp_path: Path, monkeypatch
) -> None:
    adata = make_adata(40, 20)
    many = ad.AnnData(np.tile(adata.X.toarray(), (n // 20, 1)), obs=None, var=adata.var)
    many.obs["cell_type"] = [f"type {c % n}" for c in range(many.n_obs)]
    monkeypatch.setattr("polygene.corpus.prepare.Preparation._rank", lambda _: pytest.fail("ranked"))
    with pytest.raises(PhenotypeError, match=r"cell_type has .* labels .*can have 5,000"):
        prepare(many, tmp_path / "corpus", config=PrepareConfig(split="random"))


def test_no_control_character_of_a_name_reaches_the_terminal(
    make_adata: MakeAnnData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = make_adata(60, 20)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str) + ESCAPES
    adata.write_h5ad(tmp_path / "cells.h5ad")
    results = [
        polygene("prepare", tmp_path / "cells.h5ad", "--out", tmp_path / "corpus", "--genes", 10),
        polygene("info", tmp_path / "corpus"),
        polygene("annotate", tmp_path / f"none{ESCAPES}.h5ad"),
    ]
    console().print("text", ESCAPES)
    said = "".join(result.output for result in results) + capsys.readouterr().out
    assert not {character for character in said if not character.isprintable()} - {"\n"}
    assert r"\x1b" in said
    assert results[0].exit_code == 0


def test_letters_of_all_scripts_are_printed_as_they_are() -> None:
    assert printable("naïve T 细胞 α/β\n\t") == "naïve T 细胞 α/β\n\t"


def test_evaluate_writes_over_no_file_of_the_model_or_the_corpus(toy_corpus, tiny_model, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "model")
    for out in (tmp_path / "model/config.json", tmp_path / "model/calibration.json"):
        before = out.read_bytes()
        result = polygene("evaluate", toy_corpus.folder, "--model", tmp_path / "model", "--out", out)
        assert "would replace" in refusal(result)
        assert out.read_bytes() == before
    own = toy_corpus.folder / "corpus.json"
    before = own.read_bytes()
    assert "would replace" in refusal(polygene("evaluate", own.parent, "--model", tmp_path / "model", "--out", own))
    assert own.read_bytes() == before


def test_a_source_inside_the_corpus_that_is_replaced_stays(make_adata: MakeAnnData, tmp_path: Path) -> None:
    corpus = prepare(make_adata(60, 20), tmp_path / "corpus").folder
    make_adata(60, 20).write_h5ad(corpus / "cells.h5ad")
    with pytest.raises(OutputError, match="would replace"):
        prepare(corpus / "cells.h5ad", corpus, overwrite=True)
    assert (corpus / "cells.h5ad").exists()
