"""Which features of a file are genes, and what the others are: antibodies, hashtags, guides, peaks, spike-ins.

Shapes: F features of the file.
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from polygene.errors import DataError
from polygene.vocab.gene_names import NAME_COLUMNS

logger = logging.getLogger("polygene")

GENES = "Gene Expression"
TYPE_COLUMNS = ("feature_types", "feature_type", "feature_biotype", "modality")
"""Columns of `var` that may say what a feature is (10x, CELLxGENE, muon)."""

_IS_GENE = re.compile(r"gene[ _]expression|genes?|gex|m?rna|transcripts?", re.IGNORECASE)
# Biotypes (protein_coding, lncRNA, …) are none of these.
_IS_OTHER = re.compile(
    r"antibody.*|adt|prot(?:eins?)?|cite|antigen.*|crispr.*|guides?|multiplexing.*|hashtags?|hto|custom|peaks?|atac"
    r"|chromatin.*|spike-?ins?|synthetic|vdj.*",
    re.IGNORECASE,
)
_NAMES = {
    "antibodies": r"^(?:AB|Ab)[_:]|^(?:ADT|adt|CITE|prot|protein)[_:.-]|[_.-](?:ADT|adt|prot|Ab)$"
    r"|[_.-]?TotalSeq[-_.]?[ABCD]?\d*$|^(?:Hu|HuMs|HuMsRt)\.[A-Z]|^Isotype[_.]",
    "hashtags": r"^(?:HTO|hto)[-_.]?[A-Z\d]{1,3}$|^[Hh]ashtag[-_. ]?\d+|^CMO\d{3}$",
    "guides": r"^sgRNA|^gRNA|^sg[-_.]?[A-Z][A-Z\d]|[-_.]sgRNA|[-_.]gRNA",
    "peaks": r"^(?:chr\w+|\d{1,2}|[XY]|MT|(?:GL|KI)\d{6}\.\d)[:_.-]\d{3,}[_.-]\d{3,}$",
    "spike-ins": r"^(?:gSpikein[-_])?ERCC[-_.]\d{5}$|^SIRV\d|^RNA[-_.]SPIKE",
    "genes of mouse": r"^_*(?:mm\d+|GRCm\d+)[_-]",
}
# TotalSeq hashtags come first: Hashtag1_TotalSeqA is one, not an antibody.
_KINDS = ("hashtags", *(kind for kind in _NAMES if kind != "hashtags"))
_ANY_NAME = re.compile("|".join(f"(?P<k{i}>{_NAMES[kind]})" for i, kind in enumerate(_KINDS)))


def kinds_of_features(var: pd.DataFrame) -> np.ndarray:
    """Give what each feature of a file is, kind_F: "" for a gene, else as the file or else its name calls it.

    A column of types is believed if it names genes, or nothing but known others. Of a feature without a type the names
    decide: no name of a human gene that HGNC knows looks like one of `_NAMES`.

    >>> kinds_of_features(pd.DataFrame(index=["CD4", "CD4_TotalSeqB", "ERCC-00002", "HTO-A"])).tolist()
    ['', 'antibodies', 'spike-ins', 'hashtags']
    """
    kind_F = np.full(len(var), "", dtype=object)
    for column in TYPE_COLUMNS:
        if column not in var or isinstance(var[column], pd.DataFrame):
            continue
        type_F = var[column].astype(object).where(var[column].notna().to_numpy(), "").map(str).to_numpy(object)
        types = set(type_F) - {""}
        genes = set(filter(_IS_GENE.fullmatch, types))
        if genes or (types and all(map(_IS_OTHER.fullmatch, types))):
            kind_F = np.where((kind_F == "") & ~np.isin(type_F, [*genes, ""]), type_F, kind_F)
    names = [var.index, *(var[column] for column in NAME_COLUMNS if column in var)]
    for names_F in names:
        if isinstance(names_F, pd.Index | pd.Series):
            kind_F = np.where(kind_F == "", _kinds_by_name(list(map(str, names_F))), kind_F)
    return kind_F


def is_gene_type(name: str) -> bool:
    """Whether a type of features, or a modality, is the one of genes."""
    return bool(_IS_GENE.fullmatch(name))


def left_out(kind_F: np.ndarray, label: str) -> dict[str, int]:
    """Count the features that are no genes by what they are, and warn of them; refuse a file of nothing else."""
    counts = dict(Counter(kind_F[kind_F != ""]).most_common())
    if not counts:
        return {}
    n_genes, others = int((kind_F == "").sum()), ", ".join(f"{n:,} {kind}" for kind, n in counts.items())
    if not n_genes:
        msg = f"{label} holds no features of the type {GENES!r}, only {others}"
        raise DataError(msg)
    logger.warning(
        "genes: of %s %s genes are read; left out are features that are none: %s", label, f"{n_genes:,}", others
    )
    return counts


def _kinds_by_name(names: Sequence[str]) -> np.ndarray:
    found = (_ANY_NAME.search(name) for name in names)
    return np.array([_KINDS[int(one.lastgroup[1:])] if one and one.lastgroup else "" for one in found], dtype=object)
