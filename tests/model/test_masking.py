"""What is hidden and what is asked: rates, repeatability, and that nothing hidden can be seen.

`Seen` takes a batch apart again, cell by cell, as a reader of the packed row would.
"""

from dataclasses import fields, replace

import numpy as np
import pytest

from polygene.errors import RecipeError
from polygene.model.batches import visible_level
from polygene.model.masking import MaskingCollator, MaskingConfig, mask_genes
from polygene.runtime.hashing import uniform

N_PHENOTYPES = 5
FIRST_GENE = N_PHENOTYPES + 2


class Seen:
    """A batch taken apart: for each cell its keys {slot: token}, and its questions {slot: (truth, weight)}."""

    def __init__(self, batch):
        batch = {name: tensor.numpy() for name, tensor in batch.items()}
        tokens_T, slots_T = batch["input_ids"][0], batch["position_ids"][0]
        ends = np.cumsum(batch["n_keys"] + batch["n_queries"])
        cell_T = np.repeat(np.arange(len(ends)), batch["n_keys"] + batch["n_queries"])
        starts = ends - batch["n_keys"] - batch["n_queries"]
        self.keys = [
            dict(zip(slots_T[a : a + n], tokens_T[a : a + n], strict=True))
            for a, n in zip(starts, batch["n_keys"], strict=True)
        ]
        self.genes: list[dict] = [{} for _ in ends]
        self.labels: list[dict] = [{} for _ in ends]
        for at, truth, weight in zip(batch["gene_at"], batch["bins"], batch["bin_weights"], strict=True):
            self.genes[cell_T[at]][slots_T[at] - FIRST_GENE] = (truth, weight)
        asked = zip(batch["label_at"], batch["labels"], batch["label_weights"], batch["label_phenotype"], strict=True)
        for at, truth, weight, p in asked:
            assert slots_T[at] == p + 1
            self.labels[cell_T[at]][p] = (truth, weight)
        questions = np.concatenate([batch["gene_at"], batch["label_at"]])
        self.question_tokens = set(tokens_T[questions])
        assert len(questions) == len(set(questions)) == batch["n_queries"].sum()
        assert (questions >= (starts + batch["n_keys"])[cell_T[questions]]).all(), "questions stand behind the keys"


@pytest.fixture
def collate(toy_tokenizer, toy_cells):
    def run(config=None, *, numbers_C=None, epoch=0, seed=0, cells=toy_cells, measured_SG=None, **kwargs):
        numbers_C = np.arange(len(cells)) if numbers_C is None else np.asarray(numbers_C)
        measured_SG = cells.measured_G[None] if measured_SG is None else measured_SG
        collator = MaskingCollator(
            tokenizer=toy_tokenizer,
            measured_SG=measured_SG,
            config=config or MaskingConfig(unmeasured_rate=0),
            seed=seed,
            **kwargs,
        )
        sources_C = numbers_C % len(measured_SG)
        return collator(cells.rows(numbers_C), sources_C, numbers_C, np.full(len(numbers_C), epoch))

    return run


def bins_of(cells, c):
    """{gene: bin} of the expressed genes of a cell."""
    here = slice(cells.offsets_C1[c], cells.offsets_C1[c + 1])
    return dict(zip(cells.genes_N[here].tolist(), cells.bins_N[here].tolist(), strict=True))


def test_hidden_things_are_asked_and_are_never_keys(toy_tokenizer, toy_cells, collate):
    n_hidden = 0
    for epoch in range(50):
        seen = Seen(collate(MaskingConfig(varied_rate=0, unmeasured_rate=0), epoch=epoch))
        assert seen.question_tokens == {toy_tokenizer.mask_id}
        for c, (keys, genes, labels) in enumerate(zip(seen.keys, seen.genes, seen.labels, strict=True)):
            truth = bins_of(toy_cells, c)
            shown = {slot - FIRST_GENE: token for slot, token in keys.items() if FIRST_GENE <= slot < FIRST_GENE + 40}
            assert not shown.keys() & genes.keys(), "an asked gene is no key"
            assert shown | {g: b for g, (b, _) in genes.items() if b} == truth, "the others are, with their true bins"
            assert all(truth.get(g, 0) == b for g, (b, _) in genes.items()), "and the truth is the truth"
            for p in range(N_PHENOTYPES):
                label = toy_cells.labels_CP[c, p]
                shows = keys[p + 1] - toy_tokenizer.absent_id(p) - 1
                assert shows == (-1 if p in labels else label)
                assert p not in labels or labels[p][0] == label
            n_hidden += len(genes) + len(labels)
    assert n_hidden > 1000


def test_a_cell_that_hides_more_asks_every_expressed_gene_of_it_and_no_more_zeros(make_tokenizer, make_cells):
    cells = make_cells(make_tokenizer(2000), 60, 0.2)
    measured_CG = np.ones((60, 2000), dtype=bool)
    more_C = np.linspace(0, 1, 60)
    cell_N = np.repeat(np.arange(60), np.diff(cells.offsets_C1))
    shown_C, weights_C = np.zeros(60), np.zeros(60)
    for epoch in range(20):
        random_CG = uniform(0, np.full(60, epoch), np.arange(60), np.arange(2000))
        least = mask_genes(cells, measured_CG, random_CG, MaskingConfig())
        cells_Q, genes_Q, bins_Q, weights_Q, visible_N = mask_genes(
            cells, measured_CG, random_CG, MaskingConfig(), more_C
        )
        zeros = [set(zip(c[b == 0], g[b == 0], strict=True)) for c, g, b in (least[:3], (cells_Q, genes_Q, bins_Q))]
        assert zeros[0] == zeros[1], "the same zeros are asked"
        asked = set(zip(cells_Q[bins_Q > 0], genes_Q[bins_Q > 0], strict=True))
        assert asked == set(zip(cell_N[~visible_N], cells.genes_N[~visible_N], strict=True)), "what is hidden is asked"
        shown_C += np.bincount(cell_N[visible_N], minlength=60) / np.diff(cells.offsets_C1) / 20
        weights_C += np.bincount(cells_Q, weights_Q, minlength=60) / 20
    np.testing.assert_allclose(shown_C, 0.85 * (1 - more_C), atol=0.03)
    assert weights_C.mean() == pytest.approx(1, abs=0.01)


def test_start_tells_how_much_is_shown(toy_tokenizer, make_cells, collate):
    cells = make_cells(toy_tokenizer, 800, 0.5)
    batch = collate(MaskingConfig(varied_rate=0.5, unmeasured_rate=0), cells=cells)
    at_start = (batch["position_ids"][0] == N_PHENOTYPES + 1).numpy()
    types_T = batch["token_type_ids"][0].numpy()
    assert not types_T[~at_start].any(), "the other tokens have the first type"
    levels_C = types_T[at_start]
    n_shown_C = np.array([sum(slot >= FIRST_GENE for slot in keys) - 1 for keys in Seen(batch).keys])
    share_C = n_shown_C / np.diff(cells.offsets_C1)
    assert np.mean(levels_C == 8) == pytest.approx(0.5 + 0.5 * 0.05 / 0.85, abs=0.06)
    for level in range(8):
        assert share_C[levels_C == level].mean() == pytest.approx(level / 10 + 0.05, abs=0.04)
    assert share_C[levels_C == 8].mean() == pytest.approx(0.85, abs=0.02)


def test_a_cell_whose_asked_genes_are_hidden_counts_as_a_whole_one():
    np.testing.assert_array_equal(visible_level(np.array([0, 0.0999, 0.1, 0.5, 0.85, 1.0])), [0, 0, 1, 5, 8, 8])


def test_15_percent_of_the_measured_genes_are_hidden_expressed_or_not(make_tokenizer, make_cells):
    """30 million draws: 0.1 percentage points are over 6 standard errors of the smaller group, the expressed."""
    cells = make_cells(make_tokenizer(2000), 60, 0.2)
    measured_CG = np.ones((60, 2000), dtype=bool)
    config = MaskingConfig(zero_rate=1.0)
    hidden_expressed = asked_zeros = 0
    for epoch in range(250):
        random_CG = uniform(0, np.full(60, epoch), np.arange(60), np.arange(2000))
        _, _, bins_Q, _, visible_N = mask_genes(cells, measured_CG, random_CG, config)
        hidden_expressed += (~visible_N).sum()
        asked_zeros += (bins_Q == 0).sum()
    n_expressed = len(cells.genes_N)
    assert hidden_expressed / (250 * n_expressed) == pytest.approx(0.15, abs=0.001)
    assert asked_zeros / (250 * (60 * 2000 - n_expressed)) == pytest.approx(0.15, abs=0.001)


@pytest.mark.parametrize("zero_rate", [0.1, 0.25, 1.0])
def test_of_the_hidden_zeros_the_zero_rate_is_asked(make_tokenizer, make_cells, zero_rate):
    cells = make_cells(make_tokenizer(2000), 60, 0.2)
    config = MaskingConfig(zero_rate=zero_rate)
    asked = 0
    for epoch in range(60):
        random_CG = uniform(1, np.full(60, epoch), np.arange(60), np.arange(2000))
        asked += (mask_genes(cells, np.ones((60, 2000), dtype=bool), random_CG, config)[2] == 0).sum()
    assert asked / (60 * (60 * 2000 - len(cells.genes_N))) == pytest.approx(0.15 * zero_rate, rel=0.02)


def test_genes_are_hidden_at_the_configured_rate_whether_expressed_or_not(collate, toy_cells):
    for rate in (0.05, 0.4, 1.0):
        batches = [
            Seen(collate(MaskingConfig(gene_rate=rate, varied_rate=0, zero_rate=1.0), epoch=epoch))
            for epoch in range(200)
        ]
        asked = np.mean([len(genes) for seen in batches for genes in seen.genes])
        assert asked / toy_cells.measured_G.sum() == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize(
    ("rate", "all_rate"), [(0.5, 0.25), (0.5, 0.0), (0.5, 0.5), (0.9, 0.3), (0.0, 0.0), (1.0, 1.0)]
)
def test_given_labels_are_hidden_at_their_rate_and_at_times_all(collate, toy_cells, rate, all_rate):
    config = MaskingConfig(phenotype_rate=rate, all_phenotypes_rate=all_rate)
    given_C = (toy_cells.labels_CP >= 0).sum(1)
    hidden_EC = np.array([[len(x) for x in Seen(collate(config, epoch=epoch)).labels] for epoch in range(1000)])
    assert hidden_EC.sum() / (1000 * given_C.sum()) == pytest.approx(rate, abs=0.015)
    alone = (rate - all_rate) / (1 - all_rate) if all_rate < 1 else 1.0
    expected_C = all_rate + (1 - all_rate) * alone**given_C
    assert (hidden_EC == given_C).mean(0) == pytest.approx(expected_C, abs=0.06)


def test_labels_that_are_not_given_are_never_asked(collate, toy_cells):
    seen = Seen(collate(MaskingConfig(phenotype_rate=1.0, all_phenotypes_rate=1.0)))
    for labels, labels_P in zip(seen.labels, toy_cells.labels_CP, strict=True):
        assert sorted(labels) == np.flatnonzero(labels_P >= 0).tolist()
    assert (toy_cells.labels_CP < 0).any()


def test_keys_of_a_labelled_cell_with_all_labels_hidden_are_those_of_the_cell_without_labels(toy_cells, collate):
    """Missing in the file, hidden for training: a reader of the keys cannot tell which."""
    without = replace(toy_cells, labels_CP=np.full_like(toy_cells.labels_CP, -1))
    hide_all = MaskingConfig(phenotype_rate=1.0, all_phenotypes_rate=1.0)
    labelled, unlabelled = Seen(collate(hide_all)), Seen(collate(hide_all, cells=without))
    assert labelled.keys == unlabelled.keys
    assert all(labels == {} for labels in unlabelled.labels)
    assert Seen(collate(MaskingConfig(phenotype_rate=0, all_phenotypes_rate=0))).keys != labelled.keys


def test_labels_are_dropped_independently_of_the_source(collate):
    two_sources = np.ones((2, 40), dtype=bool)
    two_sources[1, :20] = False
    for epoch in range(20):
        one, two = Seen(collate(epoch=epoch)), Seen(collate(epoch=epoch, measured_SG=two_sources))
        assert [sorted(labels) for labels in one.labels] == [sorted(labels) for labels in two.labels]


def test_genes_that_a_source_did_not_measure_are_never_asked(toy_tokenizer, make_cells, collate):
    measured_SG = np.random.default_rng(0).random((2, 40)) < 0.6
    cells = make_cells(toy_tokenizer, 12, 0.5, measured_G=measured_SG.all(0))
    asked = [set(), set()]
    for epoch in range(100):
        batch = collate(MaskingConfig(gene_rate=0.5), cells=cells, measured_SG=measured_SG, epoch=epoch)
        for c, genes in enumerate(Seen(batch).genes):
            asked[c % 2] |= genes.keys()
    for source in (0, 1):
        assert asked[source] == set(np.flatnonzero(measured_SG[source]))


def test_a_gene_with_value_zero_that_was_measured_is_asked_as_a_zero(collate, toy_cells):
    seen = Seen(collate(MaskingConfig(gene_rate=1.0, zero_rate=1.0)))
    for c, genes in enumerate(seen.genes):
        assert {g: b for g, (b, _) in genes.items()} == dict.fromkeys(range(36), 0) | bins_of(toy_cells, c)


@pytest.mark.parametrize("numbers_C", [[5], [11, 5, 2], [5, 5], list(range(12))[::-1]])
def test_what_is_hidden_of_a_cell_depends_on_seed_epoch_and_cell_alone(collate, numbers_C):
    """Not on the batch it stands in, nor on its place there: so not on ranks, workers or resuming either."""
    together, others = Seen(collate(epoch=3, seed=7)), Seen(collate(numbers_C=numbers_C, epoch=3, seed=7))
    for place, c in enumerate(numbers_C):
        for part in ("keys", "genes", "labels"):
            assert getattr(others, part)[place] == getattr(together, part)[c]


@pytest.mark.parametrize("other", [{"epoch": 4, "seed": 7}, {"epoch": 3, "seed": 8}])
def test_another_epoch_and_another_seed_hide_other_things(collate, other):
    one, two = Seen(collate(epoch=3, seed=7)), Seen(collate(**other))
    assert sum(a != b for a, b in zip(one.genes, two.genes, strict=True)) >= 10
    assert sum(a != b for a, b in zip(one.labels, two.labels, strict=True)) >= 5


def test_weights_are_fixed_by_what_is_expected_to_be_asked_not_by_what_was_drawn(collate, toy_cells):
    config = MaskingConfig(gene_rate=0.3, varied_rate=0, zero_rate=0.2, phenotype_rate=0.6)
    n_asked = set()
    for epoch in range(20):
        seen = Seen(collate(config, epoch=epoch))
        for genes, labels, labels_P in zip(seen.genes, seen.labels, toy_cells.labels_CP, strict=True):
            for truth, weight in genes.values():
                assert weight == pytest.approx((1 if truth else 1 / 0.2) / (0.3 * 36))
            for _, weight in labels.values():
                assert weight == pytest.approx(1 / (0.6 * (labels_P >= 0).sum()))
            n_asked.add(len(genes))
    assert len(n_asked) > 5, "cells were asked different numbers of genes"


@pytest.mark.parametrize(
    "rates", [{}, {"gene_rate": 0.02}, {"gene_rate": 0.9, "zero_rate": 0.9}], ids=["default", "few", "most"]
)
def test_the_weights_of_a_cell_sum_to_one_in_expectation(collate, toy_cells, rates):
    genes_EC, labels_EC = [], []
    for epoch in range(2000):
        seen = Seen(collate(MaskingConfig(**rates), epoch=epoch))
        genes_EC.append([sum(weight for _, weight in genes.values()) for genes in seen.genes])
        labels_EC.append([sum(weight for _, weight in labels.values()) for labels in seen.labels])
    for drawn_EC, expected_C in ((np.array(genes_EC), 1.0), (np.array(labels_EC), (toy_cells.labels_CP >= 0).any(1))):
        errors_C = (drawn_EC.mean(0) - expected_C) / np.maximum(drawn_EC.std(0) / np.sqrt(2000), 1e-9)
        assert np.abs(errors_C).max() < 4, "standard errors"


def test_class_weights_multiply_the_weights_of_the_labels(collate):
    weights = [None, np.array([0.5, 2.0]), None, None, None]
    plain, weighted = Seen(collate()), Seen(collate(class_weights=weights))
    assert plain.keys == weighted.keys
    assert plain.genes == weighted.genes
    n_tissues = 0
    for one, other in zip(plain.labels, weighted.labels, strict=True):
        for p, (truth, weight) in one.items():
            assert other[p] == (truth, pytest.approx(weight * (weights[1][truth] if p == 1 else 1)))
            n_tissues += p == 1
    assert n_tissues > 2


def test_random_numbers_are_uniform_and_unrelated_between_neighbours():
    numbers_CS = uniform(0, np.zeros(2000, dtype=np.int64), np.arange(2000), np.arange(500))
    assert numbers_CS.dtype == np.float32
    assert numbers_CS.min() >= 0
    assert numbers_CS.max() < 1
    counts = np.histogram(numbers_CS, bins=100, range=(0, 1))[0]
    assert ((counts - 1e4) ** 2 / 1e4).sum() < 160, "chi-square with 99 degrees of freedom: 1 in 10,000 exceeds 160"
    deviations_CS = numbers_CS - 0.5
    neighbours = {
        "slots": (deviations_CS[:, 1:], deviations_CS[:, :-1]),
        "cells": (deviations_CS[1:], deviations_CS[:-1]),
        "epochs": (deviations_CS, uniform(0, np.ones(2000, dtype=np.int64), np.arange(2000), np.arange(500)) - 0.5),
        "seeds": (deviations_CS, uniform(1, np.zeros(2000, dtype=np.int64), np.arange(2000), np.arange(500)) - 0.5),
    }
    for between, (a, b) in neighbours.items():
        assert abs((a * b).mean() * 12) < 5e-3, between  # 5 standard errors of the correlation of a million pairs


@pytest.mark.parametrize("name", [option.name for option in fields(MaskingConfig)])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(name, value):
    with pytest.raises(RecipeError, match=rf"masking\.{name} = {value}"):
        MaskingConfig(**{name: value})


@pytest.mark.parametrize("name", ["gene_rate", "zero_rate"])
def test_a_rate_that_never_queries_an_unexpressed_gene_is_refused(name):
    """With it the weights of a cell would not sum to one: those of its zeros would be missing."""
    with pytest.raises(RecipeError, match=rf"masking\.{name} = 0: .*gene_weight = 0"):
        MaskingConfig(**{name: 0})


def test_more_cells_with_all_labels_hidden_than_labels_hidden_is_refused():
    with pytest.raises(RecipeError, match=r"all_phenotypes_rate = 0\.4 exceeds phenotype_rate\s*=\s*0\.3"):
        MaskingConfig(phenotype_rate=0.3, all_phenotypes_rate=0.4)


# --- what a file did not measure ---


def test_a_gene_that_counts_as_unmeasured_is_never_visible_and_stays_a_query(toy_cells, collate):
    measured_SG = np.ones((3, 40), dtype=bool)
    measured_SG[1, :25] = measured_SG[2, 10:] = False
    n_unmeasured, n_queries = 0, 0
    for epoch in range(30):
        batch = collate(MaskingConfig(unmeasured_rate=0.8), measured_SG=measured_SG, epoch=epoch)
        whole = Seen(collate(MaskingConfig(unmeasured_rate=0), measured_SG=measured_SG, epoch=epoch))
        unmeasured_CG, seen = batch["unmeasured"].numpy(), Seen(batch)
        for c, (keys, genes) in enumerate(zip(seen.keys, seen.genes, strict=True)):
            lacking = set(np.flatnonzero(unmeasured_CG[c]))
            visible = {slot - FIRST_GENE for slot in keys if FIRST_GENE <= slot < FIRST_GENE + 40}
            assert not visible & lacking
            assert set(np.flatnonzero(~measured_SG[c % 3])) <= lacking
            assert genes == whole.genes[c], "what is asked for does not depend on it"
            n_unmeasured += len(lacking)
            n_queries += len(lacking & genes.keys())
    assert n_queries > 0
    assert n_unmeasured > 30 * 12 * 0.5 * 40


def test_unmeasured_genes_are_those_of_another_source_or_a_random_share(toy_cells, collate):
    measured_SG = np.ones((2, 40), dtype=bool)
    measured_SG[1, ::2] = False
    lacking = [
        batch_C
        for epoch in range(100)
        for batch_C in collate(MaskingConfig(), measured_SG=measured_SG, epoch=epoch)["unmeasured"].numpy()[::2]
    ]
    as_measured = np.mean([not one.any() for one in lacking])
    as_other = np.mean([(one == ~measured_SG[1]).all() for one in lacking])
    assert as_measured == pytest.approx(0.5 + 0.25 / 2, abs=0.05), "half, and half of those read as another source"
    assert as_other == pytest.approx(0.25 / 2, abs=0.04)
    others = [one.mean() for one in lacking if one.any() and not (one == ~measured_SG[1]).all()]
    assert np.mean(others) == pytest.approx(0.5, abs=0.05)
    assert np.std(others) > 0.2


def test_without_it_each_cell_lacks_what_its_source_did_not_measure(toy_cells, collate):
    measured_SG = np.random.default_rng(0).random((3, 40)) < 0.5
    unmeasured_CG = collate(MaskingConfig(unmeasured_rate=0), measured_SG=measured_SG)["unmeasured"].numpy()
    assert (unmeasured_CG == ~measured_SG[np.arange(12) % 3]).all()
