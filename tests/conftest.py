"""Fixtures that several test files share: a toy vocabulary, cells of it, and a tiny network on it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from polygene.vocab.binning import ExpressionBinner, InverseFit
from polygene.vocab.cells import EncodedCells
from polygene.vocab.panel import GenePanel
from polygene.vocab.phenotypes import CELLXGENE, PhenotypeSchema
from polygene.vocab.tokenizer import CellTokenizer
from tests.io.hands import FORMATS
from tests.io.hands import write_as as _write_as

if TYPE_CHECKING:
    from polygene.corpus.corpus import Corpus
    from polygene.model.checkpoint import PolyGene

TOY_LABELS = (
    ("female", "male"),
    ("blood", "lung"),
    ("B cell", "T cell", "monocyte"),
    ("8-month-old stage", "57-year-old stage", "80 year-old and over stage", "adult stage"),
    ("COVID-19", "normal"),
)


def _make_tokenizer(n_genes: int, binner: ExpressionBinner | None = None) -> CellTokenizer:
    """Make a tokenizer with the five phenotypes of CELLxGENE and the genes GENE0 … GENE<n-1>."""
    binner = binner or ExpressionBinner.linear()
    return CellTokenizer(
        panel=GenePanel(symbols=tuple(f"GENE{g}" for g in range(n_genes)), ensembl_ids=("",) * n_genes),
        binner=binner,
        schema=PhenotypeSchema(phenotypes=CELLXGENE, labels=TOY_LABELS),
        inverse=InverseFit(binner, n_genes).finish(),
    )


def _make_cells(
    tokenizer: CellTokenizer, n_cells: int, density: float, *, seed: int = 0, measured_G: np.ndarray | None = None
) -> EncodedCells:
    """Draw cells that express each measured gene with probability `density`, and lack a third of their labels."""
    rng = np.random.default_rng(seed)
    measured_G = np.ones(len(tokenizer.panel), dtype=bool) if measured_G is None else measured_G
    expressed_CG = (rng.random((n_cells, len(measured_G))) < density) & measured_G
    bins_N = rng.integers(1, tokenizer.binner.n_bins, expressed_CG.sum())
    sizes_P = np.array([len(labels) for labels in tokenizer.schema.labels])
    labels_CP = (rng.random((n_cells, len(sizes_P))) * sizes_P).astype(np.int16)
    labels_CP[rng.random(labels_CP.shape) < 1 / 3] = -1
    return EncodedCells(
        offsets_C1=np.concatenate([[0], np.cumsum(expressed_CG.sum(1))]),
        genes_N=np.nonzero(expressed_CG)[1].astype(np.uint16),
        bins_N=bins_N.astype(np.uint8),
        values_N=bins_N.astype(np.float32),
        labels_CP=labels_CP,
        measured_G=measured_G,
    )


def _make_adata(n_cells: int = 150, n_genes: int = 30, *, n_donors: int = 8, seed: int = 0) -> ad.AnnData:
    """Draw counts and labels: three cell types that express other genes, donors with one sex and one age each."""
    rng = np.random.default_rng(seed)
    rates_VG = rng.gamma(0.3, 6.0, (3, n_genes))
    types_C, donors_C = rng.integers(0, 3, n_cells), rng.permutation(np.arange(n_cells) % n_donors)
    obs = pd.DataFrame(
        {
            "donor_id": pd.Categorical([f"donor{donor}" for donor in donors_C]),
            "sex": pd.Categorical(np.array(["female", "male"])[donors_C % 2]),
            "tissue": pd.Categorical(["blood"] * n_cells),
            "cell_type": pd.Categorical(np.array(["B cell", "T cell", "monocyte"])[types_C]),
            "development_stage": pd.Categorical([f"{30 + donor % 4}-year-old stage" for donor in donors_C]),
            "disease": pd.Categorical(["normal"] * n_cells),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{g}" for g in range(n_genes)])
    return ad.AnnData(sparse.csr_matrix(rng.poisson(rates_VG[types_C]).astype(np.float32)), obs=obs, var=var)


@pytest.fixture(scope="session")
def write_as() -> Callable[..., Path]:
    """Write cells in any format that is read: `write_as(adata, folder, kind)`, kind as in `cell_format`."""
    return _write_as


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `cell_format` once for every format."""
    if "cell_format" in metafunc.fixturenames:
        metafunc.parametrize("cell_format", FORMATS)


@pytest.fixture(scope="session")
def make_adata() -> Callable[..., ad.AnnData]:
    """Draw cells of several donors: `make_adata(n_cells, n_genes, n_donors=8, seed=0)`, genes GENE0 … GENE<n-1>."""
    return _make_adata


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> "Corpus":
    """240 cells of eight donors, 24 genes, prepared; monocytes are rare."""
    from polygene.corpus.prepare import PrepareConfig, prepare

    adata = _make_adata(400, seed=3)
    rare_C = (adata.obs["cell_type"] != "monocyte") | (np.arange(400) % 5 == 0)
    adata = adata[np.flatnonzero(rare_C)[:240]].copy()
    config = PrepareConfig(n_genes=24, binning="linear", fractions=(0.5, 0.25, 0.25), seen=0.05)
    return prepare(adata, tmp_path_factory.mktemp("toy") / "corpus", config=config)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., CellTokenizer]:
    """Make other toy tokenizers: `make_tokenizer(n_genes, binner)`."""
    return _make_tokenizer


@pytest.fixture(scope="session")
def make_cells() -> Callable[..., EncodedCells]:
    """Draw other toy cells: `make_cells(tokenizer, n_cells, density, seed=0, measured_G=None)`."""
    return _make_cells


@pytest.fixture(scope="session")
def toy_tokenizer() -> CellTokenizer:
    """40 genes, 10 linear bins, five phenotypes; one of the ages cannot be read as years."""
    return _make_tokenizer(40)


@pytest.fixture(scope="session")
def toy_cells(toy_tokenizer: CellTokenizer) -> EncodedCells:
    """12 cells from a file that did not measure the last four genes."""
    return _make_cells(toy_tokenizer, 12, 0.3, measured_G=np.arange(40) < 36)


@pytest.fixture
def tiny_model(toy_tokenizer: CellTokenizer) -> "PolyGene":
    """2 layers, 32 wide; its weights are large, so that every token of a cell moves its answers."""
    from polygene.model.checkpoint import PolyGene  # imports torch, which most tests do without

    return PolyGene.new(
        toy_tokenizer,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.2,
    )


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the training loss of every batch of this process."""
    from polygene.training.engine import Engine

    recorded: list[float] = []
    compute = Engine.compute_loss

    def record(self, *args, **kwargs):
        loss = compute(self, *args, **kwargs)
        recorded.append(loss.item())
        return loss

    monkeypatch.setattr(Engine, "compute_loss", record)
    return recorded
