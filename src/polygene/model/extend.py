"""Vocabulary extension: new labels, or a new phenotype, for a trained model. Its other predictions stay the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from polygene.errors import PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.model.load import network_of, sizes_of
from polygene.vocab.phenotypes import Phenotype, PhenotypeSchema
from polygene.vocab.tokenizer import CellTokenizer

GENES, BIAS = "linear_branch.genes.weight", "linear_branch.bias"


def phenotype_of(model: PolyGene, column: str) -> str:
    """Name the phenotype that is read from this column of `obs`, or would be if the model had it.

    Raises
    ------
    PhenotypeError
        The model reads the phenotype of that name from another column.
    """
    schema = model.tokenizer.schema
    for one in schema.phenotypes:
        if one.column == column:
            return one.name
    name = re.sub(r"\W", "_", column)
    name = name if name.isidentifier() else f"_{name}"
    if name in schema.names:
        read_from = schema.phenotypes[schema.index(name)].column
        msg = f"The model reads {name} from obs[{read_from!r}], not from obs[{column!r}]: rename the column."
        raise PhenotypeError(msg)
    return name


def query_like(model: PolyGene, column: str) -> str:
    """Name the phenotype whose query serves this column of `obs`: its own if the network learned it, or cell types."""
    phenotypes = model.tokenizer.schema.phenotypes
    own = [one.name for one in phenotypes if one.column == column and not one.added]
    return [*own, *(one.name for one in phenotypes if one.name == "cell_type"), phenotypes[0].name][0]


def extend_vocabulary(model: PolyGene, column: str, labels: Sequence[str]) -> PolyGene:
    """Add the labels of a column of `obs` that the model lacks; they are to be trained then.

    A column that no phenotype is read from becomes a new phenotype, with its slot behind [END]. New rows start as rows
    that the network knows: a label as the "not given" token, a slot as the slot of cell types.

    Raises
    ------
    PhenotypeError
        See `phenotype_of`.
    """
    old, name = model.tokenizer, phenotype_of(model, column)
    phenotypes, known = old.schema.phenotypes, dict(zip(old.schema.names, old.schema.labels, strict=True))
    if name not in known:
        phenotypes = (*phenotypes, Phenotype(name=name, column=column, added=True))
    known[name] = (*known.get(name, ()), *sorted(set(labels) - set(known.get(name, ()))))
    new = replace(old, schema=PhenotypeSchema(phenotypes=phenotypes, labels=tuple(known.values())))

    network = network_of(replace(model.network.config, **sizes_of(new)))
    weights, old_weights = network.state_dict(), model.network.state_dict()
    rows_of = _old_rows(model, new, old.schema.index(query_like(model, column)))
    for key, was in old_weights.items():
        rows = rows_of.get(key.removeprefix("bert.embeddings."))
        was = was.T if key == GENES else was
        new_rows = was if rows is None else torch.cat([was, torch.zeros_like(was[:1])])[rows]
        weights[key] = new_rows.T if key == GENES else new_rows
    network.load_state_dict(weights)
    return replace(model, tokenizer=new, network=network.eval().to(model.network.device))


def _old_rows(model: PolyGene, new: CellTokenizer, like: int) -> dict[str, list[int]]:
    """For each weight that gets more rows: which old row each new row starts from (-1: zeros).

    A new phenotype starts `like` one that the model has.
    """
    old, n_first = model.tokenizer, model.network.config.gene_logits
    tokens, outputs = [*range(old.absent_id(0))], [*range(n_first)]
    for p, labels in enumerate(new.schema.labels):
        known, n_known = p < len(old.schema.labels), len(old.schema.labels[p]) if p < len(old.schema.labels) else 0
        absent = old.absent_id(p if known else like)
        tokens += [absent, *range(absent + 1, absent + 1 + n_known), *[absent] * (len(labels) - n_known)]
        first = n_first + sum(map(len, old.schema.labels[:p]))
        outputs += [*range(first, first + n_known), *[-1] * (len(labels) - n_known)]
    width = model.network.config.hidden_size
    regression = outputs[n_first:] if model.network.config.label_regression else []
    slots = [*range(old.n_slots), *[old.phenotype_slots[like]] * (new.n_slots - old.n_slots)]
    return {
        "word_embeddings.weight": tokens,
        "position_embeddings.weight": slots,
        "decoder.weight": outputs,
        "decoder.bias": outputs,
        GENES: [*range(width), *(width + row - n_first if row >= 0 else -1 for row in regression)],
        BIAS: [row - n_first if row >= 0 else -1 for row in regression],
    }
