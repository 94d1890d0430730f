"""Scores of a model in training on the validation cells; `loss` chooses the checkpoint that is kept.

Legend: C cells, P phenotypes, V labels of a phenotype, S sources.
"""

from functools import partial

import numpy as np

from polygene.corpus.corpus import CorpusSplit
from polygene.evaluation.masked_genes import score_genes
from polygene.evaluation.metrics import expected_years, frequencies, label_scores, label_tally
from polygene.evaluation.test_cells import MODEL, actual_years, donor_names, scored_labels
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.nn.losses import LossConfig
from polygene.runtime.subsample import spread
from polygene.vocab.ontology import at_or_below

MOST_VALIDATION_CELLS = 5_000
"""Scored are at most so many cells, spread evenly over the split."""
SCORES = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss", "labels")


def validation_scores(
    model: PolyGene, train: CorpusSplit, validation: CorpusSplit, loss: LossConfig
) -> dict[str, float]:
    """Score a model in training on the validation cells, nothing but expression being given.

    Returns
    -------
    For each phenotype `<name>_accuracy`, `_macro_f1`, `_balanced_accuracy`, `_log_loss` over all sources together, of
    how many `_labels`, and `<name>_mae_years` where it is an age; `gene_…` as functions of `masked_genes` name them;
    and `loss`, which chooses the best checkpoint: cross-entropy of the genes and mean log loss of the phenotypes,
    without smoothing, by the weights of the training loss. In it a phenotype costs at most what predicting the training
    frequencies would: one that cannot be learned from these donors grows overconfident and would otherwise choose
    alone. A score that the cells do not allow is left out; without cells there is none.
    """
    if not len(validation):
        return {}
    rows = spread(len(validation), MOST_VALIDATION_CELLS)
    schema = model.tokenizer.schema
    predictions = label_probabilities(model, validation.cells(rows), predict=schema.names)
    scores: dict[str, float] = {}
    label_losses = []
    for p, (name, probabilities_CV) in enumerate(zip(schema.names, predictions, strict=True)):
        learned_C, truth_C = train.labels_CP[:, p], validation.labels_CP[rows, p]
        scorable_SV = scored_labels(train, validation, p, len(schema.labels[p]), rows, pooled=True)
        if scorable_SV.any():
            marginal_CV = np.tile(frequencies(learned_C, len(schema.labels[p])), (len(rows), 1))
            tally = partial(
                label_tally,
                truth_C=truth_C,
                scorable_SV=scorable_SV,
                donors_C=donor_names(validation, rows),
                at_or_below_VV=at_or_below(name, schema.labels[p]) if loss.granularity else None,
            )
            of_model, of_marginal = (label_scores(tally(p_CV)) for p_CV in (probabilities_CV, marginal_CV))
            scores |= {f"{name}_{score}": of_model[score] for score in SCORES}
            label_losses.append(min(of_model["log_loss"], of_marginal["log_loss"]))
        if schema.phenotypes[p].ordinal == "age":
            years_V = schema.years(name)
            actual_C = actual_years(validation, years_V, validation.labels_CP[:, p])[rows]
            error_C = np.abs(expected_years(probabilities_CV, years_V) - actual_C)
            scores[f"{name}_mae_years"] = float(np.nanmean(error_C)) if np.isfinite(error_C).any() else float("nan")
    scores |= {f"gene_{name}": value for name, value in score_genes(model, validation)[MODEL].items()}
    scores["loss"] = loss.gene_weight * scores["gene_cross_entropy"]
    if label_losses:
        scores["loss"] += loss.phenotype_weight * float(np.mean(label_losses))
    return {name: value for name, value in scores.items() if np.isfinite(value)}
