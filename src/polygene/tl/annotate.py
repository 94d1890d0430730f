"""Annotate: which phenotypes a cell has.

Legend: C cells, V labels of one phenotype.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polygene.checkpoint import PolyGene
from polygene.errors import PhenotypeError
from polygene.inference import label_probabilities
from polygene.metrics import expected_years
from polygene.ontology import LabelTree, check_level
from polygene.phenotypes import PhenotypeSchema
from polygene.reading import Source
from polygene.tl._cells import CellReader, best_labels, blank, check_model, made_by
from polygene.tl._progress import watched
from polygene.writing import Answers, Block, deliver

logger = logging.getLogger("polygene")


def annotate(
    adata: Source,
    model: PolyGene,
    *,
    given: str | Sequence[str] = (),
    predict: str | Sequence[str] | None = None,
    layer: str | None = None,
    totals: str | None = None,
    back_off: float | None = None,
    out: str | Path | None = None,
) -> None:
    """Predict phenotypes of cells from their expression, and from what is already known of them.

    The answer for a cell depends on nothing but the cell: not on other cells, nor on what else is asked.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file; no label is needed.
    model
        What answers.
    given
        Phenotypes that are known: their labels in `obs` (in the column of the model's schema) are given to the model. A
        cell without such a label is answered without it.
    predict
        Phenotypes to ask. None: all that are not given.
    layer
        Where the expression is: None for `X`, the name of a layer, or "raw" for `adata.raw`.
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
    back_off
        Where the most probable cell type is less probable than this, such as 0.9, answer with a type of the Cell
        Ontology above it that is not.
    out
        Of a file, where the answers go: a copy of it with them (.h5ad), or the columns of `obs` alone (.parquet, .csv).
        Only some rows are in memory at a time. An AnnData holds its answers itself.

    Notes
    -----
    Written for each phenotype, for example `cell_type`:

    `obs["polygene_cell_type"]`
        The most probable label, categorical with all labels that the model knows.
    `obs["polygene_cell_type_probability"]`
        Its probability, float32.
    `obsm["polygene_cell_type"]`
        The probabilities of all labels, float32 (C, V), in the order of the categories, which is also
        `uns["polygene"]["annotate"]["labels"]["cell_type"]`.
    `obs["polygene_age_years"]`
        Only of ages: the expected years, over the labels that can be read as years; float32.
    `obs["polygene_cell_type_term"]`, `..._term_id`, `..._term_probability`
        Only with `back_off`: of the types that are as probable as that, each with all labels below it, the one that
        says most; its id in the Cell Ontology ("" for a label that is not in it), and its probability, float32.
    `obs["polygene_no_panel_genes"]`
        True for a cell that expresses no gene of the panel, so that its answers say nothing of it.
    `uns["polygene"]["annotate"]`
        The model, what was given and asked, the version of PolyGene, and under `genes` how much of the panel the file
        measured: counts and shares, how genes were found, and which are missing.

    Raises
    ------
    PhenotypeError
        A name is no phenotype of the model, is both given and asked, or its column or one of its labels is unknown; or
        `back_off` is no level above a half, or cell_type is not asked.
    DataError, GeneError, ScaleError
        The expression cannot be read; the message says what to do.
    """
    answers = annotation(adata, model, given=given, predict=predict, layer=layer, totals=totals, back_off=back_off)
    deliver(answers, adata, out)


def annotation(
    source: Source,
    model: PolyGene,
    *,
    given: str | Sequence[str] = (),
    predict: str | Sequence[str] | None = None,
    layer: str | None = None,
    totals: str | None = None,
    back_off: float | None = None,
) -> Answers:
    """Return what `annotate` writes, found out when it is asked for."""
    check_model(model)
    schema = model.tokenizer.schema
    given, asked = questions(schema, given, predict)
    tree = _tree(schema, asked, back_off)
    reader = CellReader(source, model.tokenizer, given=given, layer=layer, totals=totals)

    def blocks(rows: range) -> Iterator[Block]:
        for names_C, encoded in reader.chunks(rows):
            answers = label_probabilities(model, encoded, predict=asked, given=given)
            block = _block(schema, names_C, dict(zip(asked, answers, strict=True)), blank(encoded))
            if tree and back_off:
                _add_terms(block.obs, tree, *tree.back_off(block.obsm["polygene_cell_type"], back_off))
            yield block

    done, device = f"annotated ({', '.join(asked)})", model.network.device
    uns: dict[str, Any] = {
        **made_by(model),
        "given": np.array(given, dtype=str),
        "predict": np.array(asked, dtype=str),
        "genes": reader.genes,
        "labels": {name: np.array(schema.labels[schema.index(name)], dtype=str) for name in asked},
    }
    if back_off is not None:
        uns["back_off"] = back_off
    return Answers(
        verb="annotate",
        cells=reader.cells,
        blocks=lambda rows: watched(blocks(rows), len(rows), done=done, device=device),
        uns=uns,
    )


def _block(schema: PhenotypeSchema, names_C: pd.Index, answers: dict[str, np.ndarray], blank_C: np.ndarray) -> Block:
    """Lay out the probabilities of each phenotype as columns and arrays."""
    columns: dict[str, Any] = {}
    for name, probabilities_CV in answers.items():
        columns |= best_labels(name, schema.labels[schema.index(name)], probabilities_CV)
        if schema.phenotypes[schema.index(name)].ordinal == "age":
            years_C = expected_years(probabilities_CV, schema.years(name))
            columns[f"polygene_{name}_years"] = years_C.astype(np.float32)
    columns["polygene_no_panel_genes"] = blank_C
    obsm = {f"polygene_{name}": probabilities_CV for name, probabilities_CV in answers.items()}
    return Block(pd.DataFrame(columns, index=names_C), obsm)


def _tree(schema: PhenotypeSchema, asked: Sequence[str], back_off: float | None) -> LabelTree | None:
    """Find the cell types of the model in the ontology, where answers are to be backed off."""
    if back_off is None:
        return None
    check_level(back_off)
    if "cell_type" not in asked:
        msg = f"back_off is about cell_type, which is not asked; asked are {', '.join(asked)}"
        raise PhenotypeError(msg)
    tree = LabelTree(schema.labels[schema.index("cell_type")])
    if tree.unknown:
        few = ", ".join(map(repr, tree.unknown[:3])) + (", …" if len(tree.unknown) > 3 else "")
        logger.warning(
            "%s of %s cell types of the model are not in the Cell Ontology and have nothing above them: %s",
            len(tree.unknown), len(tree.of_label_V), few,
        )  # fmt: skip
    return tree


def _add_terms(obs: pd.DataFrame, tree: LabelTree, term_C: np.ndarray, probability_C: np.ndarray) -> None:
    ids, id_N = np.unique(tree.ids_N.astype(str), return_inverse=True)
    obs["polygene_cell_type_term"] = pd.Categorical.from_codes(term_C, tree.names_N)
    obs["polygene_cell_type_term_id"] = pd.Categorical.from_codes(np.where(term_C < 0, -1, id_N[term_C]), ids)
    obs["polygene_cell_type_term_probability"] = probability_C


def questions(
    schema: PhenotypeSchema, given: str | Sequence[str], predict: str | Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Settle which phenotypes are given and which are asked, in the order of the schema.

    Raises
    ------
    PhenotypeError
        There is no such phenotype, one is both, none is left to ask, or the model learned no label of one.
    """
    known = {name: list(labels) for name, labels in zip(schema.names, schema.labels, strict=True)}
    given = _names(schema, given)
    asked = [name for name in schema.names if name not in given and known[name]]
    if predict is not None:
        asked = _names(schema, predict)
    if both := [name for name in asked if name in given]:
        msg = f"{', '.join(both)}: given and asked at once. Leave it out of `given` or out of `predict`."
        raise PhenotypeError(msg)
    if unlearned := [name for name in asked if not known[name]]:
        able = ", ".join(name for name in schema.names if known[name])
        msg = f"The model never saw a label of {', '.join(unlearned)}, so it cannot answer; it can answer {able}."
        raise PhenotypeError(msg)
    if not asked:
        msg = f"There is nothing to ask: the model knows {', '.join(schema.names)}, and {', '.join(given)} are given."
        raise PhenotypeError(msg)
    for name in asked:
        if len(known[name]) == 1:
            logger.warning("%s: the model knows one label only, %r, and answers nothing else", name, known[name][0])
    return given, asked


def _names(schema: PhenotypeSchema, names: str | Sequence[str]) -> list[str]:
    chosen = {schema.index(name) for name in ([names] if isinstance(names, str) else names)}
    return [schema.names[p] for p in sorted(chosen)]
