"""More labels, or a phenotype more, for a trained model, whose other answers stay what they were."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch

from polygene.errors import PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.nn.network import PolyGeneModel
from polygene.vocab.phenotypes import Phenotype, PhenotypeSchema
from polygene.vocab.tokenizer import CellTokenizer


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


def question_like(model: PolyGene, column: str) -> str:
    """Name the phenotype whose question one for this column of `obs` is like: its own, else the one for cell types."""
    phenotypes = model.tokenizer.schema.phenotypes
    own = [one.name for one in phenotypes if one.column == column]
    return [*own, *(one.name for one in phenotypes if one.name == "cell_type"), phenotypes[0].name][0]


def grow(model: PolyGene, column: str, labels: Sequence[str]) -> PolyGene:
    """Give the model those of these labels of a column of `obs` that it lacks; they are to be trained then.

    A column that no phenotype is read from becomes a phenotype of its own, with its slot behind [END]. What is new
    starts as something that the network knows: a label as the token of "not given", a slot as the one of cell types.

    The phenotype is answered from the visible genes directly too (see `modeling.Shortcut`), yet by zeros.

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

    config = deepcopy(model.network.config)
    config.phenotype_sizes = [len(some) for some in new.schema.labels]
    config.n_added = len(phenotypes) - new.schema.n_leading
    config.vocab_size, config.max_position_embeddings = new.n_tokens, new.n_slots
    config.heads = sorted({*config.heads, new.schema.index(name)})
    with torch.random.fork_rng(devices=[]):
        network = PolyGeneModel(config)
    weights = network.state_dict()
    for key, was in model.network.state_dict().items():
        rows = _rows(key, model, new, old.schema.index(question_like(model, column)))
        weights[key] = was if rows is None else torch.cat([was, torch.zeros_like(was[:1])])[rows]
    for q in config.heads:
        key, n_labels = f"shortcut.heads.{q}.weight", config.phenotype_sizes[q]
        was = model.network.state_dict().get(key, torch.zeros(config.n_genes, 0))
        weights[key] = torch.nn.functional.pad(was, (0, n_labels - was.shape[1]))
    network.load_state_dict(weights)
    return replace(model, tokenizer=new, network=network.eval().to(model.network.device))


def _rows(key: str, model: PolyGene, new: CellTokenizer, like: int) -> list[int] | None:
    """Say which row of a weight each row of the grown one is (-1: zeros); None where its shape does not change.

    A phenotype that is new starts `like` one that the model has.
    """
    old, n_first = model.tokenizer, model.network.config.gene_logits
    tokens, answers = [*range(old.absent_id(0))], [*range(n_first)]
    for p, labels in enumerate(new.schema.labels):
        known, n_known = p < len(old.schema.labels), len(old.schema.labels[p]) if p < len(old.schema.labels) else 0
        nothing = old.absent_id(p if known else like)
        tokens += [nothing, *range(nothing + 1, nothing + 1 + n_known), *[nothing] * (len(labels) - n_known)]
        first = n_first + sum(map(len, old.schema.labels[:p]))
        answers += [*range(first, first + n_known), *[-1] * (len(labels) - n_known)]
    slots = [*range(old.n_slots), *[old.phenotype_slots[like]] * (new.n_slots - old.n_slots)]
    grown = {"word_embeddings.weight": tokens, "position_embeddings.weight": slots, "decoder.weight": answers}
    return {**grown, "decoder.bias": answers}.get(key.removeprefix("bert.embeddings."))
