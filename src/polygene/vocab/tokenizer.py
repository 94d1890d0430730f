"""The tokenizer: a cell of an AnnData to tokens and back.

    slot    0       1 … P        P+1       P+2 … P+1+G       P+2+G   P+3+G …
    holds   [CLS]   phenotypes   [START]   genes by panel    [END]   phenotypes that fine-tuning added

    id      0 … B-1   B       B+1       B+2     B+3      B+4 …
    token   bin_0 …   [CLS]   [START]   [END]   [MASK]   [NO_SEX] [female] [male] [NO_TISSUE] …

Shapes: C cells, G genes of the panel, M of them measured, P phenotypes, N expressed entries, B bins.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from polygene.errors import CheckpointError
from polygene.runtime.files import read_json
from polygene.vocab.binning import LEVELS, BinInverse, ExpressionBinner
from polygene.vocab.cells import EncodedCells
from polygene.vocab.expression import check_anndata, log1p_values
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.panel import GenePanel
from polygene.vocab.phenotypes import Phenotype, PhenotypeSchema
from polygene.vocab.scale import Scale

SPECIAL_TOKENS = ("[CLS]", "[START]", "[END]", "[MASK]")
FORMAT = 2
FILES = ("tokenizer.json", "tokenizer.safetensors", "genes.tsv")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CellTokenizer:
    """Everything needed to turn an AnnData into tokens and back: panel, bins, phenotypes, and what a bin stands for."""

    panel: GenePanel
    binner: ExpressionBinner
    schema: PhenotypeSchema
    inverse: BinInverse

    def __post_init__(self) -> None:
        shape, one = (len(self.panel), self.binner.n_bins), self.inverse
        for table in (one.mean_GB, one.quantiles_GBR, one.counts_GB):
            if table.shape != (*shape, len(LEVELS))[: 3 if table is one.quantiles_GBR else 2]:
                msg = f"The inverse is for {table.shape} genes x bins, panel and binner have {shape}."
                raise CheckpointError(msg)
        if not (np.isfinite(one.mean_GB).all() and np.isfinite(one.quantiles_GBR).all()):
            msg = "The inverse holds values that are no numbers."
            raise CheckpointError(msg)

    @property
    def n_slots(self) -> int:
        """How many places a sequence has."""
        return len(self.schema.phenotypes) + 3 + len(self.panel)

    @property
    def end_slot(self) -> int:
        """The slot of [END]."""
        return self.schema.n_leading + 2 + len(self.panel)

    @property
    def phenotype_slots(self) -> np.ndarray:
        """The slot of each phenotype, int64 (P,)."""
        n_leading, places_P = self.schema.n_leading, np.arange(len(self.schema.phenotypes))
        return places_P + np.where(places_P < n_leading, 1, self.end_slot + 1 - n_leading)

    @property
    def n_tokens(self) -> int:
        """How many tokens the vocabulary has."""
        return len(self.tokens)

    @property
    def cls_id(self) -> int:
        """The id of [CLS]."""
        return self.binner.n_bins

    @property
    def start_id(self) -> int:
        """The id of [START]."""
        return self.binner.n_bins + 1

    @property
    def end_id(self) -> int:
        """The id of [END]."""
        return self.binner.n_bins + 2

    @property
    def mask_id(self) -> int:
        """The id of [MASK]."""
        return self.binner.n_bins + 3

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The vocabulary by id (bin_3, [CLS], [B_cell]); labels of two phenotypes may read alike, their ids differ."""
        words = [f"bin_{b}" for b in range(self.binner.n_bins)] + list(SPECIAL_TOKENS)
        for phenotype, labels in zip(self.schema.phenotypes, self.schema.labels, strict=True):
            words += [phenotype.absent_token, *(f"[{label.replace(' ', '_')}]" for label in labels)]
        return tuple(words)

    def label_range(self, p: int) -> tuple[int, int]:
        """Return (first, last + 1) of the ids of the labels of phenotype p."""
        first = self.absent_id(p) + 1
        return first, first + len(self.schema.labels[p])

    def absent_id(self, p: int) -> int:
        """Return the id of [NO_X], the token of phenotype p where no label is given."""
        return self.binner.n_bins + len(SPECIAL_TOKENS) + sum(1 + len(labels) for labels in self.schema.labels[:p])

    def phenotype_token_ids(self, labels_CP: np.ndarray) -> np.ndarray:
        """token_ids_CP int64 of labels: what the phenotype slots of the cells hold, [NO_X] where not given."""
        first_P = [self.label_range(p)[0] for p in range(len(self.schema.phenotypes))]
        return np.array(first_P, dtype=np.int64) + labels_CP  # [NO_X] stands before the labels, where -1 leads

    def encode(
        self,
        adata: Any,
        *,
        match: GeneMatch | None = None,
        totals: str | None = None,
        scale: Scale | None = None,
        use_labels: bool | Collection[str] = True,
        unknown: Literal["error", "not given"] = "error",
    ) -> EncodedCells:
        """Turn the cells of an AnnData into tokens; what was matched, and how many cells have no label, is logged.

        Parameters
        ----------
        match
            The columns of the panel genes, where they are found already: for cells that come in pieces.
        totals, scale
            What the expression is, as for `polygene.vocab.expression.log1p_values`.
        use_labels
            Whether to read labels from `obs`; or the names of the phenotypes to read, whose columns must exist.
        unknown
            What a label outside the vocabulary is: an error, or not given.

        Raises
        ------
        DataError, GeneError, ScaleError, PhenotypeError
            The data cannot be read so; the message says what to do.
        """
        check_anndata(adata)
        match = match or self.panel.match(adata.var)
        values_CM = log1p_values(adata, match, totals=totals, scale=scale, ranks=self.binner.ranks)
        if isinstance(use_labels, str):
            use_labels = (use_labels,)
        use = None if use_labels is True else use_labels or ()
        return self.encode_values(values_CM, match.measured_G, self.schema.encode(adata.obs, use=use, unknown=unknown))

    def encode_values(
        self, values_CM: sparse.csr_matrix, measured_G: np.ndarray, labels_CP: np.ndarray
    ) -> EncodedCells:
        """Turn what `log1p_values` and the schema's `encode` returned into tokens: the second half of `encode`."""
        bins_N = self.binner.bins_of_entries(values_CM)
        expressed = bins_N > 0
        offsets_C1 = np.concatenate([[0], np.cumsum(expressed)])[values_CM.indptr].astype(np.int64)
        return EncodedCells(
            offsets_C1=offsets_C1,
            genes_N=np.flatnonzero(measured_G).astype(np.uint16)[values_CM.indices[expressed]],
            bins_N=bins_N[expressed],
            values_N=values_CM.data[expressed],
            labels_CP=labels_CP,
            measured_G=measured_G,
        )

    def from_bins(self, bins_CG: np.ndarray, labels_CP: np.ndarray, measured_G: np.ndarray) -> EncodedCells:
        """Give cells with these bins (uint8, zeros included); a value is the training mean of the gene's bin."""
        bins = sparse.csr_matrix(bins_CG)
        return EncodedCells(
            offsets_C1=bins.indptr.astype(np.int64),
            genes_N=bins.indices.astype(np.uint16),
            bins_N=bins.data,
            values_N=self.inverse.mean_GB[bins.indices, bins.data],
            labels_CP=labels_CP,
            measured_G=measured_G,
        )

    def decode(self, cells: EncodedCells) -> tuple[sparse.csr_matrix, pd.DataFrame]:
        """Turn tokens back into expression (float32 csr, log1p counts per 10,000) and labels (the columns of `obs`).

        A value is the training mean of the gene in its bin, which lies in the bin, so that encoding it again gives the
        same tokens (but for ranks within a cell).
        """
        lowest_B, highest_B = self.binner.bounds()
        means_N = self.inverse.mean_GB[cells.genes_N, cells.bins_N]
        data = np.clip(means_N, lowest_B[cells.bins_N], highest_B[cells.bins_N])
        return cells.as_csr(data, len(self.panel)), self.schema.decode(cells.labels_CP)

    def show(self, cells: EncodedCells, i: int = 0, n_genes: int = 12) -> str:
        """Write the sequence of cell i as a person reads it: `n_genes` of its expressed genes, the others counted."""
        here = slice(cells.offsets_C1[i], cells.offsets_C1[i + 1])
        genes, bins = cells.genes_N[here], cells.bins_N[here]
        words = [f"{self.panel.symbols[g]}={b}" for g, b in zip(genes[:n_genes], bins[:n_genes], strict=True)]
        if len(genes) > n_genes:
            words.append(f"… {len(genes) - n_genes} more expressed")
        n_measured = int(cells.measured_G.sum())
        words.append(f"… {n_measured - len(genes)} not expressed")
        if n_measured < len(self.panel):
            words.append(f"… {len(self.panel) - n_measured} not measured")
        phenotypes = [self.tokens[t] for t in self.phenotype_token_ids(cells.labels_CP[[i]])[0]]
        return " ".join(["[CLS]", *phenotypes, "[START]", *words, "[END]"])

    def __repr__(self) -> str:
        head = f"CellTokenizer: {len(self.panel):,} genes, {self.binner!r}, {self.n_tokens:,} tokens"
        return f"{head}\n{self.schema.describe()}"

    def to_json(self) -> str:
        """Return the text of tokenizer.json: bins and phenotypes, a line each."""
        phenotypes = [
            {key: value for key, value in asdict(phenotype).items() if key != "added" or value} | {"labels": labels}
            for phenotype, labels in zip(self.schema.phenotypes, self.schema.labels, strict=True)
        ]
        parts = {"format": FORMAT, "binner": asdict(self.binner), "phenotypes": phenotypes}
        lines = (json.dumps(part, ensure_ascii=False, separators=(",", ":")) for part in parts.values())
        return "{\n" + ",\n".join(f'"{key}":{line}' for key, line in zip(parts, lines, strict=True)) + "\n}\n"

    def fingerprint(self) -> str:
        """Return a SHA-256 that is equal just where every cell gets equal tokens and values."""
        digest = hashlib.sha256((self.to_json() + self.panel.to_tsv()).encode())
        for table in self.inverse.tables().values():
            digest.update(table.tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `FILES` into a folder: bins and phenotypes, the values that bins stand for, the panel."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8", newline="\n")
        save_file(self.inverse.tables(), folder / "tokenizer.safetensors")
        self.panel.save(folder / "genes.tsv")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; a CheckpointError names a file that is missing or altered."""
        path, tables = (Path(folder) / name for name in FILES[:2])
        for file, holds in ((path, "bins and phenotypes"), (tables, "the values that bins stand for")):
            if not file.is_file():
                msg = f"{file} is missing: it holds {holds}. Is {folder} a corpus or a checkpoint?"
                raise CheckpointError(msg)
        try:
            parts = read_json(path)
            if parts["format"] != FORMAT:
                msg = f"{path} has format {parts['format']}, this version of PolyGene reads {FORMAT}: update PolyGene."
                raise CheckpointError(msg)
            binner = ExpressionBinner(**{**parts["binner"], "edges": tuple(parts["binner"]["edges"])})
            labels = tuple(tuple(map(_text, phenotype.pop("labels"))) for phenotype in parts["phenotypes"])
            schema = PhenotypeSchema(phenotypes=tuple(Phenotype(**each) for each in parts["phenotypes"]), labels=labels)
            path = tables
            inverse = BinInverse.from_tables(load_file(tables))
        except (OSError, SafetensorError, LookupError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            msg = f"{path} is broken ({type(error).__name__}: {error}): copy it again from where it was made."
            raise CheckpointError(msg) from error
        return cls(panel=GenePanel.load(Path(folder) / "genes.tsv"), binner=binner, schema=schema, inverse=inverse)


def _text(label: object) -> str:
    if not isinstance(label, str):
        msg = f"the label {label!r} is no text"
        raise TypeError(msg)
    return label
