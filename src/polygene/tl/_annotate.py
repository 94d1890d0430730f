"""Annotate: which phenotypes a cell has.

Legend: C cells, V labels of one phenotype.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polygene.errors import PhenotypeError
from polygene.evaluation.ages import LEVEL, years_interval
from polygene.evaluation.metrics import expected_years
from polygene.io.read import Source
from polygene.io.write import Answers, Block, deliver, watched
from polygene.model.calibration import LabelCalibration, check_coverage, finest, units_needed
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.tl._reader import CellReader, best_labels, blank, check_model, made_by, phenotypes_named
from polygene.vocab.ontology import LabelTree, check_level
from polygene.vocab.phenotypes import PhenotypeSchema

logger = logging.getLogger("polygene")
NO_LABEL = "no label"


def annotate(
    adata: Source,
    model: PolyGene,
    *,
    given: str | Sequence[str] = (),
    predict: str | Sequence[str] | None = None,
    coverage: float | None = None,
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
    coverage
        How often the set of labels of a cell shall hold the true one, 0.5 to 0.99, such as 0.9. None: no sets. It is
        meant on average over new donors like those that the model was calibrated on, for cells of every label.
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
    `obs["polygene_cell_type_set"]`, `obs["polygene_cell_type_set_size"]`, `obs["polygene_cell_type_abstains"]`
        Only with `coverage`: the labels that may be true, most probable first, as "label | label"; how many; and
        whether the model abstains, because the set is not one label: with several it cannot tell, with "no label" the
        cell is less typical than the share `coverage` of the cells of every label.
        `uns["polygene"]["annotate"]["sets"]["cell_type"]` says how many donors the sets rest on, and which labels had
        too few of their own and are held to what all labels together ask for.
    `obs["polygene_age_years"]`, `obs["polygene_age_years_low"]`, `obs["polygene_age_years_high"]`
        Only of ages: the expected years, over the labels that can be read as years, and the ages between which the
        middle 90 % of their probability lies (`uns["polygene"]["annotate"]["years_level"]`); float32.
    `obs["polygene_cell_type_term"]`, `..._term_id`, `..._term_probability`
        Only with `back_off`: of the types that are as probable as that, each with all labels below it, the one that
        says most; its id in the Cell Ontology ("" for a label that is not in it), and its probability, float32.
    `obs["polygene_no_panel_genes"]`
        True for a cell that expresses no gene of the panel, so that its answers say nothing of it.
    `obs["polygene_novelty"]`, `obs["polygene_unknown"]`
        How far the cell is from every kind of cell that trained the model, whatever is given and asked: above 1 it is
        flagged as unknown, and its answers are not to be trusted. Of known cells a share of
        `uns["polygene"]["annotate"]["false_alarms"]` is flagged too. Left out if the model has no `novelty`.
    `uns["polygene"]["annotate"]`
        The model, what was given and asked, the version of PolyGene, and under `genes` how much of the panel the file
        measured: counts and shares, how genes were found, and which are missing.

    Raises
    ------
    PhenotypeError
        A name is no phenotype of the model, is both given and asked, or its column or one of its labels is unknown; or
        sets are wanted of a model that was not calibrated, `back_off` is no level above a half, or cell_type is not
        asked.
    DataError, GeneError, ScaleError
        The expression cannot be read; the message says what to do.
    """
    answers = annotation(
        adata,
        model,
        given=given,
        predict=predict,
        coverage=coverage,
        layer=layer,
        totals=totals,
        back_off=back_off,
    )
    deliver(answers, adata, out)


def annotation(
    source: Source,
    model: PolyGene,
    *,
    given: str | Sequence[str] = (),
    predict: str | Sequence[str] | None = None,
    coverage: float | None = None,
    layer: str | None = None,
    totals: str | None = None,
    back_off: float | None = None,
) -> Answers:
    """Return what `annotate` writes, found out when it is asked for."""
    check_model(model)
    schema = model.tokenizer.schema
    given, asked = questions(schema, given, predict)
    calibrations = {} if coverage is None else _calibrations(model, asked, coverage)
    tree = _tree(schema, asked, back_off)
    reader = CellReader(source, model.tokenizer, given=given, layer=layer, totals=totals)
    known = model.novelty
    if known is None:
        logger.info("the model has no record of its training cells: cells unlike any of them are not told")

    def blocks(rows: range) -> Iterator[Block]:
        for names_C, encoded in reader.chunks(rows):
            answers, states = predict_labels(model, encoded, predict=asked, given=given)
            block = _block(schema, names_C, dict(zip(asked, answers, strict=True)), blank(encoded))
            if coverage is not None:
                _add_sets(block, calibrations, coverage, model)
            if tree and back_off:
                _add_terms(block.obs, tree, *tree.back_off(block.obsm["polygene_cell_type"], back_off))
            if known is not None:
                if given or known.query not in asked:  # novelty is learned with nothing given
                    states_CD = predict_labels(model, encoded, predict=[known.query])[1][0]
                else:
                    states_CD = states[asked.index(known.query)]
                block.obs["polygene_novelty"] = known.score(states_CD)
                block.obs["polygene_unknown"] = block.obs["polygene_novelty"] > 1
            yield block

    done, device = f"annotated ({', '.join(asked)})", model.network.device
    uns: dict[str, Any] = {
        **made_by(model),
        "given": np.array(given, dtype=str),
        "predict": np.array(asked, dtype=str),
        "genes": reader.genes,
        "years_level": LEVEL,
        **({"false_alarms": known.false_alarms} if known is not None else {}),
        "labels": {name: np.array(schema.labels[schema.index(name)], dtype=str) for name in asked},
    }
    if coverage is not None:
        uns["sets"] = {
            name: _rests_on(one, coverage, schema.labels[schema.index(name)]) for name, one in calibrations.items()
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
            years_V = schema.years(name)
            found = (expected_years(probabilities_CV, years_V), *years_interval(probabilities_CV, years_V))
            for ending, years_C in zip(("", "_low", "_high"), found, strict=True):
                columns[f"polygene_{name}_years{ending}"] = years_C.astype(np.float32)
    columns["polygene_no_panel_genes"] = blank_C
    obsm = {f"polygene_{name}": probabilities_CV for name, probabilities_CV in answers.items()}
    return Block(pd.DataFrame(columns, index=names_C), obsm)


def _add_sets(block: Block, calibrations: dict[str, LabelCalibration], coverage: float, model: PolyGene) -> None:
    """Add the columns of sets to those of a block."""
    for name, calibration in calibrations.items():
        p_CV, table_VV = block.obsm[f"polygene_{name}"], model.at_or_below(name)
        labels = model.tokenizer.schema.labels[model.tokenizer.schema.index(name)]
        set_CV = finest(calibration.sets(p_CV, coverage, table_VV), table_VV)
        for ending, column_C in label_sets(p_CV, set_CV, labels).items():
            block.obs[f"polygene_{name}_{ending}"] = column_C


def label_sets(p_CV: np.ndarray, set_CV: np.ndarray, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Write sets of labels as text, most probable first, with their sizes and whether they are not one label."""
    size_C = set_CV.sum(axis=1).astype(np.int32)
    order_CV = np.argsort(np.where(set_CV, -p_CV, np.inf), axis=1, kind="stable")
    named = np.asarray(labels, dtype=object)
    texts = [" | ".join(named[order_V[:size]]) or NO_LABEL for order_V, size in zip(order_CV, size_C, strict=True)]
    return {"set": np.array(texts, dtype=object), "set_size": size_C, "abstains": size_C != 1}


def _calibrations(model: PolyGene, asked: Sequence[str], coverage: float) -> dict[str, LabelCalibration]:
    """Give what sets of the asked phenotypes rest on; say aloud where that is little, or nothing.

    Raises
    ------
    PhenotypeError
        The coverage cannot be asked for, or the model was not calibrated for any of them.
    """
    check_coverage(coverage)
    found = {name: model.calibration.labels[name] for name in asked if name in model.calibration.labels}
    if not found:
        msg = (
            f"The model was not calibrated for {', '.join(asked)}, so it has no sets of labels. Leave `coverage` out, "
            "or train on a corpus whose validation donors have these labels."
        )
        raise PhenotypeError(msg)
    needed = units_needed(coverage)
    for name in asked:
        if name not in found:
            logger.warning("%s: no sets, since the model was not calibrated for it", name)
        elif found[name].units < needed:
            logger.warning(
                "%s: sets rest on %d calibration %ss, %d are needed for %g: they may hold the true label less often",
                name, found[name].units, found[name].unit, needed, coverage,
            )  # fmt: skip
    return found


def _rests_on(calibration: LabelCalibration, coverage: float, labels: Sequence[str]) -> dict[str, Any]:
    """Say for `uns` what sets rest on."""
    own_V = calibration.own(coverage)
    return {
        "coverage": coverage,
        "unit": calibration.unit,
        "units": calibration.units,
        "held_to_all_labels": np.array([label for label, own in zip(labels, own_V, strict=True) if not own], dtype=str),
    }


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
    given = phenotypes_named(schema, given)
    asked = [name for name in schema.names if name not in given and known[name]]
    if predict is not None:
        asked = phenotypes_named(schema, predict)
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
