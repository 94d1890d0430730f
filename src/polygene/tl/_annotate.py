"""Annotate: predict phenotypes. Legend: C cells, D width, V labels of one phenotype, N terms of the Cell Ontology."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polygene.errors import PhenotypeError
from polygene.evaluation.ages import LEVEL, years_interval
from polygene.evaluation.metrics import expected_years
from polygene.io.read import Source
from polygene.io.results import ResultsChunk, earlier
from polygene.io.write import check_out, write_results
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities, predict_labels
from polygene.model.shipped import DEFAULT
from polygene.model.studies import error_features
from polygene.runtime.ranks import WHOLE, Part, world_size
from polygene.tl._reader import CellReader, blank, load_model, phenotypes_named, results_of
from polygene.tl._sets import Sets, Summary
from polygene.tl._vote import check_votes, principal_components, with_votes
from polygene.vocab.cells import EncodedCells
from polygene.vocab.columns import some
from polygene.vocab.gene_names import XIST, Y_GENES
from polygene.vocab.ontology import TABLES, LabelTree, check_level, reported_labels, table_of
from polygene.vocab.phenotypes import PhenotypeSchema

logger = logging.getLogger("polygene")


def annotate(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    *,
    given: str | Sequence[str] = (),
    predict: str | Sequence[str] | None = None,
    coverage: float | None = None,
    layer: str | None = None,
    totals: str | None = None,
    back_off: float | None = None,
    vote: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    part: str | None = None,
) -> None:
    """Predict phenotypes of cells from their expression, and from labels that are known.

    The prediction for a cell depends on nothing but the cell: not on other cells, nor on what else is predicted.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file; no label is needed.
    model
        A PolyGene, or the name or folder of one.
    given
        Phenotypes to condition on: their labels in `obs`, in the column of the model's schema. A cell without such a
        label is predicted without it.
    predict
        Phenotypes to predict. None: all that are not given.
    coverage
        How often the set of labels of a cell shall hold the true one, 0.5 to 0.99, such as 0.9, on average over new
        studies, or of a model that was not calibrated on studies, over new donors of those that trained it. None: no
        sets.
    layer
        Where the expression is: None for `X`, the name of a layer, or "raw" for `adata.raw`.
    totals
        Column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
    back_off
        Where the most probable cell type is less probable than this, such as 0.9, give the most specific type of the
        Cell Ontology above it that is as probable.
    vote
        Phenotypes, each with the column of `obs` whose groups decide together, as `vote` does, such as
        {"cell_type": "leiden"}. "leiden" is computed where there is no such column.
    out
        Where the results of a file go: a copy of it with them (.h5ad), or their columns alone (.parquet, .csv). A name
        without an ending is a folder of Parquet files of 100,000 cells, into which a run that was stopped goes on. Only
        some rows are in memory at a time. An AnnData is changed in place.
    overwrite
        Replace a file that is there. That of the cells (.h5ad) stays whole, and then also holds the results.
    part
        "3/16" for the third of sixteen parts of the cells, into a folder: machines that share it, or whose folders are
        put together, share the work.

    Notes
    -----
    Written for each phenotype, for example `cell_type`:

    `obs["polygene_cell_type"]`, `obs["polygene_cell_type_probability"]`
        The most probable label, categorical (with the labels that occur), and its probability, float32. Where labels of
        the model stand above others in the ontology, a label counts with all below it.
    `obsm["polygene_cell_type"]`
        The probabilities of all labels, float32 (C, V), in the order of
        `uns["polygene"]["annotate"]["labels"]["cell_type"]`. They add up to 1: that of a coarse label is what no finer
        one has.
    `obs["polygene_cell_type_error"]`
        The probability that this label is wrong, learned on studies that were left out whole; only of models that were
        calibrated on such.
    `obs["polygene_cell_type_set"]`, `..._set_size`, `..._set_term`, `..._abstains`
        With `coverage`: the labels that may be true, as "label | label", most probable first, labels without finer ones
        only; how many; the ontology's term for them together; why they are not one: "", "several labels", or "no
        typical label", and then the set is the most probable one.
    `obs["polygene_age_years"]`, `..._low`, `..._high`
        Of ages: the expected years, and the middle 90 % of their probability; float32.
    `obs["polygene_cell_type_term"]`, `..._term_id`, `..._term_probability`
        With `back_off`: the type of the Cell Ontology, its id ("" for a label outside it), its probability.

    What an earlier `annotate` and `vote` wrote of these phenotypes is replaced. Written once:

    `obs["polygene_no_panel_genes"]`
        True for a cell that expresses no gene of the panel: its predictions mean nothing.
    `obs["polygene_novelty"]`, `obs["polygene_unknown"]`
        Distance to the nearest kind of training cell, 1 being what 5 % of the cells of held-out donors exceed; and
        whether it is above `uns["polygene"]["annotate"]["unknown_above"]`, which 5 % of the cells of known types in
        studies never seen exceed (1 without such a calibration): a kind of cell that the model does not know.
    `uns["polygene"]["annotate"]`
        Model, version, what was given and predicted, how much of the panel the file measures, what the sets rest on.

    Examples
    --------
    >>> import polygene as pg
    >>> adata = pg.datasets.pbmc()[:50].copy()
    >>> pg.tl.annotate(adata, predict="cell_type")
    >>> adata.obsm["polygene_cell_type"].shape
    (50, 254)
    """
    some_cells = Part.parse(part) if part else WHOLE
    check_out(adata, out, overwrite=overwrite, part=some_cells)
    model = load_model(model)
    schema = model.tokenizer.schema
    given, predict = check_phenotypes(schema, given, predict)
    annotator = _Annotator(model, given, predict, coverage, back_off)
    own = {name: model.heads[name].genes for name in predict if name in model.heads}
    reader = CellReader(adata, model.tokenizer, given=given, layer=layer, totals=totals, own=own)
    check_votes(reader.cells, {} if vote is None else vote, predict, part)
    if "sex" in predict and not _can_predict_sex(model, reader.match.measured_G):
        why = "the file measures neither XIST nor a gene of Y, which alone tell it in any study"
        logger.warning("sex: %s; each cell gets the share of the sexes that the model expects of any cell", why)
    done, always = f"annotated ({', '.join(predict)})", ("novelty", "unknown")
    replaces = earlier(reader.cells.columns, (*predict, *always), (*schema.names, *always))
    results = results_of("annotate", model, reader, annotator.block, done=done, uns=annotator.uns(), replaces=replaces)
    if vote:
        results = with_votes(results, vote, lambda: principal_components(reader, len(model.tokenizer.panel)))
    write_results(results, adata, out, overwrite=overwrite, part=some_cells)
    for line in annotator.summary.lines() if world_size() == 1 else ():
        logger.info("%s", line)


def _can_predict_sex(model: PolyGene, measured_G: np.ndarray) -> bool:
    """Whether a file measures any gene of sex; True for a model that reads none, or has a head for sex."""
    of_sex_G = np.isin(model.tokenizer.panel.symbols, [XIST, *Y_GENES])
    return "sex" in model.heads or not of_sex_G.any() or bool(measured_G[of_sex_G].any())


@dataclass(eq=False)
class _Annotator:
    """Predictions of one model as columns and arrays."""

    model: PolyGene
    given: list[str]
    predict: list[str]
    coverage: float | None
    back_off: float | None

    def __post_init__(self) -> None:
        self.schema = self.model.tokenizer.schema
        self.labels = {name: self.schema.labels[self.schema.index(name)] for name in self.predict}
        self.sets = None if self.coverage is None else Sets(self.model, self.predict, self.coverage)
        studies = self.model.calibration.studies.get("cell_type")
        self.unknown_above = studies.novelty if studies else 1.0
        self.summary = Summary(studies is not None, [name for name in self.predict if name in self.model.heads])
        self.tree = None if self.back_off is None else _tree(self.labels, self.back_off)
        if self.model.novelty is None:
            logger.info("the model has no record of its training cells, so novel cells are not flagged")

    def block(self, names_C: pd.Index, cells: EncodedCells) -> ResultsChunk:
        """Predict a chunk of cells."""
        p_PCV, states_PCD = predict_labels(self.model, cells, predict=self.predict, given=self.given)
        p_of = dict(zip(self.predict, p_PCV, strict=True))
        if "sex" in p_of and not _can_predict_sex(self.model, cells.measured_G):  # other genes name the study
            none_CG = np.zeros((len(cells), len(self.model.tokenizer.panel)), dtype=np.uint8)
            unseen = self.model.tokenizer.from_bins(none_CG, cells.labels_CP, none_CG[0] > 0)
            (p_of["sex"],) = label_probabilities(self.model, unseen, predict=["sex"], given=self.given)
        columns: dict[str, Any] = {}
        novelty_C = self._novelty(cells, states_PCD)
        for name, p_CV in p_of.items():
            columns |= self._best(name, p_CV, novelty_C)
        columns["polygene_no_panel_genes"] = blank(cells)
        if self.sets:
            for name in self.sets.used:
                columns |= self.sets.columns(name, p_of[name])
        if self.tree and self.back_off:
            columns |= _term_columns(self.tree, p_of["cell_type"], self.back_off)
        if novelty_C is not None:
            columns |= {"polygene_novelty": novelty_C, "polygene_unknown": novelty_C > self.unknown_above}
        self.summary.add(columns)
        return ResultsChunk(pd.DataFrame(columns, index=names_C), {f"polygene_{name}": p for name, p in p_of.items()})

    def _novelty(self, cells: EncodedCells, states_PCD: Sequence[np.ndarray]) -> np.ndarray | None:
        """Score novelty; its threshold was learned with nothing given, so the state is one with nothing given too."""
        if (novelty := self.model.novelty) is None:
            return None
        if self.given or novelty.query not in self.predict:
            return novelty.score(predict_labels(self.model, cells, predict=[novelty.query])[1][0])
        return novelty.score(states_PCD[self.predict.index(novelty.query)])

    def _best(self, name: str, p_CV: np.ndarray, novelty_C: np.ndarray | None) -> dict[str, Any]:
        """Return columns of obs: the label of each cell, its probability with all labels below it, and years."""
        at_or_below_VV, key = self.model.at_or_below(name), f"polygene_{name}"
        best_C = reported_labels(p_CV, at_or_below_VV)
        if at_or_below_VV is None:
            p_C = p_CV[np.arange(len(best_C)), best_C]
        else:
            p_C = np.where(at_or_below_VV[best_C], p_CV, 0).sum(axis=1)
        best = {key: pd.Categorical.from_codes(best_C, list(self.labels[name])), f"{key}_probability": p_C}
        studies = self.model.calibration.studies.get(name)
        if studies and novelty_C is not None:
            table_VV = table_of(at_or_below_VV, p_CV.shape[1])
            best[f"{key}_error"] = studies.error(error_features(p_CV, table_VV, novelty_C))
        if self.schema.phenotypes[self.schema.index(name)].ordinal != "age":
            return best
        years_V = self.schema.years(name)
        years = (expected_years(p_CV, years_V), *years_interval(p_CV, years_V))
        endings = ("years", "years_low", "years_high")
        return best | {f"{key}_{end}": x_C.astype(np.float32) for end, x_C in zip(endings, years, strict=True)}

    def _order(self, name: str) -> np.ndarray:
        """Return labels so that those of one branch of the ontology stand together, for pictures."""
        under_NV = LabelTree(self.labels[name], name).under_NV  # broad terms last, by which is sorted first
        return np.array(self.labels[name], dtype=str)[np.lexsort(~under_NV)]

    def uns(self) -> dict[str, Any]:
        """Describe how the predictions were made."""
        uns: dict[str, Any] = {
            "given": np.array(self.given, dtype=str),
            "predict": np.array(self.predict, dtype=str),
            "years_level": LEVEL,
            "labels": {name: np.array(labels, dtype=str) for name, labels in self.labels.items()},
            "order": {name: self._order(name) for name in self.predict if name in TABLES},
            "granularity": self.model.recipe is not None and self.model.recipe.loss.granularity,
            "vote_weights": {name: one.vote for name, one in self.model.calibration.labels.items()},
        }
        if self.model.novelty is not None:
            uns |= {"false_alarms": self.model.novelty.false_alarms, "unknown_above": self.unknown_above}
        if self.sets:
            uns["sets"] = self.sets.uns()
        if self.back_off is not None:
            uns["back_off"] = self.back_off
        return uns


def _tree(labels: Mapping[str, Sequence[str]], back_off: float) -> LabelTree:
    check_level(back_off)
    if "cell_type" not in labels:
        msg = f"back_off is for cell_type, which is not predicted; predicted are {', '.join(labels)}"
        raise PhenotypeError(msg)
    tree = LabelTree(labels["cell_type"])
    if tree.unknown:
        logger.warning(
            "%s of %s cell types of the model are not in the Cell Ontology and have nothing above them: %s",
            len(tree.unknown), len(tree.of_label_V), some(map(repr, tree.unknown), 3),
        )  # fmt: skip
    return tree


def _term_columns(tree: LabelTree, p_CV: np.ndarray, back_off: float) -> dict[str, Any]:
    term_C, probability_C = tree.back_off(p_CV, back_off)
    ids, id_N = np.unique(tree.ids_N.astype(str), return_inverse=True)
    return {
        "polygene_cell_type_term": pd.Categorical.from_codes(term_C, tree.names_N),
        "polygene_cell_type_term_id": pd.Categorical.from_codes(np.where(term_C < 0, -1, id_N[term_C]), ids),
        "polygene_cell_type_term_probability": probability_C,
    }


def check_phenotypes(
    schema: PhenotypeSchema, given: str | Sequence[str], predict: str | Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Return which phenotypes are given and which are predicted, in the order of the schema."""
    known, given = dict(zip(schema.names, schema.labels, strict=True)), phenotypes_named(schema, given, "given")
    others = [name for name in schema.names if name not in given and known[name]]
    chosen = others if predict is None else phenotypes_named(schema, predict, "predict")
    if both := [name for name in chosen if name in given]:
        msg = f"{', '.join(both)}: given and predicted at once. Leave it out of `given` or out of `predict`."
        raise PhenotypeError(msg)
    if unlearned := [name for name in chosen if not known[name]]:
        able = ", ".join(name for name in schema.names if known[name])
        msg = f"The model learned no label of {', '.join(unlearned)}, so it cannot predict it; it can predict {able}."
        raise PhenotypeError(msg)
    if not chosen:
        msg = f"Nothing is left to predict: the model knows {', '.join(schema.names)}; given are {', '.join(given)}."
        raise PhenotypeError(msg)
    for name in chosen:
        if len(known[name]) == 1:
            logger.warning("%s: the model knows one label only, %r, and always predicts it", name, known[name][0])
    return given, chosen
