"""The models that ship: they are whole, small, found by their names, and answer as they did."""

import json
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from benchmarks.models import ship
from polygene.cli import describe
from polygene.corpus.corpus import Corpus
from polygene.errors import CheckpointError, DataError
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import cell_states, label_probabilities
from polygene.model.metrics import Metrics
from polygene.model.recipe import Recipe
from polygene.model.shipped import MODELS, MOST_BYTES, NAMES, folder_of
from polygene.vocab.cells import EncodedCells


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder that holds nothing, and without the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: pytest.fail(f"the Hub was asked for {name}"))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_by_its_name_with_the_hashes_and_the_panel_it_should_have(name: str) -> None:
    model = PolyGene.from_pretrained(name, device="cpu")
    assert len(model.tokenizer.panel) == int(name.rpartition("-")[2])
    assert {weights.dtype for weights in model.network.parameters()} == {torch.float32}


def test_the_folders_that_ship_are_those_that_are_named() -> None:
    assert {folder.name for folder in MODELS.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_names_no_folder_of_the_machine_that_made_it(name: str) -> None:
    for file in (MODELS / name).iterdir():
        assert file.stat().st_size <= MOST_BYTES, file
    with safe_open(MODELS / name / "model.safetensors", framework="numpy") as weights:
        assert {weights.get_slice(one).get_dtype() for one in weights.keys()} == {"F16"}  # noqa: SIM118
    recipe = Recipe.load(MODELS / name / "recipe.toml")
    assert (recipe.corpus, recipe.out) == (name.replace("polygene", "corpus"), f"runs/{name}")


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_for_one_cell_as_it_did(name: str) -> None:
    """After training anew: python -m benchmarks.models.ship --fixture."""
    expected = json.loads(ship.FIXTURE.read_text(encoding="utf-8"))[name]
    answered = ship.answers(name)
    assert {phenotype: list(labels) for phenotype, labels in answered.items()} == {
        phenotype: list(labels) for phenotype, labels in expected.items()
    }
    for phenotype, labels in expected.items():
        assert sum(labels.values()) == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(list(answered[phenotype].values()), list(labels.values()), rtol=0, atol=1e-4)


def test_it_loads_within_a_second() -> None:
    PolyGene.from_pretrained(NAMES[0])  # what it needs is imported
    for name in NAMES:
        before = time.process_time()
        PolyGene.from_pretrained(name)
        assert time.process_time() - before < 1


def test_a_folder_of_the_same_name_comes_first(tiny_model: PolyGene, tmp_path: Path) -> None:
    assert folder_of("polygene-512") == MODELS / "polygene-512"
    tiny_model.save_pretrained("polygene-512")
    assert len(PolyGene.from_pretrained("polygene-512").tokenizer.panel) == 40
    assert folder_of(tmp_path / "polygene-512") == tmp_path / "polygene-512"


def test_other_names_are_told_which_models_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"'polygene-51': .*ships.* \(polygene-512, polygene-2432\)"):
        PolyGene.from_pretrained("polygene-51")
    with pytest.raises(DataError, match="polygene-512, polygene-2432"):
        describe.describe("polygene-51")


def test_half_precision_takes_half_the_bytes_and_changes_no_probability_by_a_hundredth(
    tiny_model: PolyGene, toy_cells: EncodedCells, tmp_path: Path
) -> None:
    names = tiny_model.tokenizer.schema.names
    for half in (False, True):
        tiny_model.save_pretrained(tmp_path / str(half), half=half)
    sizes = [(tmp_path / str(half) / "model.safetensors").stat().st_size for half in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = PolyGene.from_pretrained(tmp_path / "True", device="cpu")
    assert {weights.dtype for weights in tiny_model.network.parameters()} == {torch.float32}, "it was only written so"
    assert {weights.dtype for weights in loaded.network.parameters()} == {torch.float32}
    answers = [label_probabilities(model, toy_cells, predict=names) for model in (tiny_model, loaded)]
    for full_CV, half_CV in zip(*answers, strict=True):
        assert not np.array_equal(full_CV, half_CV)
        np.testing.assert_allclose(half_CV, full_CV, rtol=0, atol=0.01)
    assert np.abs(cell_states(loaded, toy_cells) - cell_states(tiny_model, toy_cells)).max() < 0.02


def test_info_says_that_a_model_was_not_calibrated(tiny_model: PolyGene, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "model")
    assert ["calibration", "none"] in [line.split() for line in printed(*describe.describe(tmp_path / "model"))]


@pytest.fixture
def run(tiny_model: PolyGene, toy_corpus: Corpus, tmp_path: Path) -> Path:
    """A checkpoint as `polygene train` writes it."""
    metrics = Metrics(corpus=toy_corpus.summary(), validation={"loss": 1.0}, test={"scores": [1]})
    recipe = Recipe(corpus=str(tmp_path / "corpus"), out=str(tmp_path / "run"))
    replace(tiny_model, recipe=recipe, metrics=metrics).save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def test_shipping_a_run_leaves_out_where_it_was_made(run: Path, tmp_path: Path) -> None:
    folder = ship.ship(run, "polygene-512", tmp_path / "models")
    model = PolyGene.from_pretrained(folder, device="cpu")
    assert model.metrics.to_dict().keys() == {"corpus", "validation"}
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file


def test_a_card_and_scores_stay_with_the_weights_they_describe(run: Path, tiny_model: PolyGene, tmp_path: Path) -> None:
    folder = ship.ship(run, "polygene-512", tmp_path / "models")
    (folder / "README.md").write_text("a card")
    (folder / "metrics.json").write_text('{"test": {"study": {}}}')
    ship.ship(run, "polygene-512", tmp_path / "models")
    assert (folder / "README.md").read_text() == "a card"
    assert PolyGene.from_pretrained(folder, device="cpu").metrics == Metrics(test={"study": {}})
    with torch.no_grad():
        tiny_model.network.decoder.weight.add_(1)
    replace(tiny_model, recipe=Recipe.load(run / "recipe.toml")).save_pretrained(run)
    ship.ship(run, "polygene-512", tmp_path / "models")
    assert "PolyGene checkpoint" in (folder / "README.md").read_text()
    assert PolyGene.from_pretrained(folder, device="cpu").metrics == Metrics()


def test_what_is_too_large_to_ship_is_refused_and_what_was_there_stays(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ship.ship(run, "polygene-512", tmp_path / "models")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(ship, "MOST_BYTES", 10_000)
    with pytest.raises(CheckpointError, match="too large to ship"):
        ship.ship(run, "polygene-512", tmp_path / "models")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def printed(*tables: Table) -> list[str]:
    console = Console(width=80, file=StringIO())
    console.print(*tables)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.fixture
def shown() -> list[str]:
    """The lines of `polygene models`, 80 wide."""
    return printed(describe.describe_shipped())


def test_the_models_are_listed_at_80_columns(shown: list[str]) -> None:
    assert max(map(len, shown)) <= 80
    text = " ".join(" ".join(shown).split())
    for name in NAMES:
        tokenizer, sums = PolyGene.from_pretrained(name).tokenizer, (MODELS / name / "SHA256SUMS").read_text()
        digest = next(line for line in sums.splitlines() if line.endswith("model.safetensors"))[:12]
        for fact in (name, f"{len(tokenizer.panel):,}", digest):
            assert fact in text
        labels = tokenizer.schema.labels[tokenizer.schema.index("cell_type")]
        assert f"{len(labels)}: {labels[0]}" in text


@pytest.mark.parametrize("name", NAMES)
def test_info_names_every_label_of_a_model(name: str) -> None:
    text = " ".join(printed(*describe.describe(name)))
    assert "…" not in text.split("phenotypes")[1]
    for labels in PolyGene.from_pretrained(name).tokenizer.schema.labels:
        assert {word for label in labels for word in label.split()} <= {word.strip(";") for word in text.split()}


@pytest.mark.parametrize("name", NAMES)
def test_the_cells_that_trained_it_are_counted(name: str, shown: list[str]) -> None:
    sources = json.loads((MODELS / name / "metrics.json").read_text())["corpus"]["sources"].values()
    cells = sum(source["cells"].get("train", 0) for source in sources)
    donors = sum(source["donors"].get("train", 0) for source in sources)
    assert f"{cells:,} of {donors} donors" in next(line for line in shown if line.startswith("train cells"))
