"""The network: every cell by itself, every slot group by itself."""

import pytest
import torch

from polygene.nn.attention import CellOffsets
from polygene.nn.config import PolyGeneConfig
from polygene.nn.network import PolyGeneModel

SIZES = [2, 3, 0, 4]
N_GENES, N_BINS, N_TOKENS = 30, 6, 30
FIRST_GENE = len(SIZES) + 2
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PACKED_CELLS = ("input_ids", "position_ids", "token_type_ids", "n_keys", "n_queries")


def make_network(n_bins=N_BINS, **shape):
    torch.manual_seed(0)
    config = PolyGeneConfig(
        n_genes=N_GENES,
        n_bins=n_bins,
        phenotype_sizes=SIZES,
        vocab_size=N_TOKENS,
        initializer_range=0.2,
        **SHAPE,
        **shape,
    )
    network = PolyGeneModel(config).eval()
    torch.nn.init.normal_(network.gene_bias.weight)
    torch.nn.init.normal_(network.decoder.bias)
    torch.nn.init.normal_(network.linear_branch.genes.weight, std=0.05)
    return network


@pytest.fixture
def network():
    return make_network()


def make_cell(seed, n_genes=8, genes=(3, 17), phenotypes=(0, 1, 3)):
    """One cell: its keys [(token, slot)], and its questions as slots, genes first."""
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randperm(N_GENES, generator=generator)[:n_genes].sort().values + FIRST_GENE
    tokens = torch.randint(1, N_BINS, (n_genes,), generator=generator)
    leading = torch.randint(N_BINS, N_TOKENS, (FIRST_GENE,), generator=generator)
    keys = [
        *zip(leading.tolist(), range(FIRST_GENE), strict=True),
        *zip(tokens.tolist(), slots.tolist(), strict=True),
        (8, FIRST_GENE + N_GENES),
    ]
    return keys, [FIRST_GENE + g for g in genes], [p + 1 for p in phenotypes]


def make_batch(cells):
    """Lay out cells as `PolyGeneModel.forward` takes them."""
    ids, slots, gene_at, label_at, n_keys, n_queries = [], [], [], [], [], []
    for keys, genes, labels in cells:
        ids += [token for token, _ in keys]
        slots += [slot for _, slot in keys]
        gene_at += range(len(ids), len(ids) + len(genes))
        label_at += range(len(ids) + len(genes), len(ids) + len(genes) + len(labels))
        ids += [9] * len(genes + labels)
        slots += genes + labels
        n_keys.append(len(keys))
        n_queries.append(len(genes + labels))
    types = [[int(slot == FIRST_GENE - 1) for slot in slots]]
    batch = {"input_ids": [ids], "position_ids": [slots], "token_type_ids": types}
    batch |= {"n_keys": n_keys, "n_queries": n_queries}
    batch |= {"gene_at": gene_at, "label_at": label_at}
    batch = {name: torch.tensor(values, dtype=torch.int64) for name, values in batch.items()}
    return batch | {"label_phenotype": batch["position_ids"][0, batch["label_at"]] - 1}


@torch.no_grad()
def answers_of(network, cells):
    """For each cell its answers: [CLS], gene logits in the order asked, label logits by phenotype."""
    batch = make_batch(cells)
    out = network(**batch)
    hidden_TD = network.encode(**{name: batch[name] for name in PACKED_CELLS})
    lengths = batch["n_keys"] + batch["n_queries"]
    cell_T = torch.repeat_interleave(torch.arange(len(cells)), lengths)
    starts_C = lengths.cumsum(0) - lengths
    answers = []
    for c in range(len(cells)):
        label_cells = cell_T[batch["label_at"]]
        of_p = [label_cells[batch["label_phenotype"] == p] == c for p in range(len(SIZES))]
        labels = [logits[mine] for logits, mine in zip(out.label_logits, of_p, strict=True)]
        answers.append([hidden_TD[starts_C[c]], out.gene_logits[cell_T[batch["gene_at"]] == c], *labels])
    return answers


def largest_difference(answers, others):
    return max((a - b).abs().max().item() for a, b in zip(answers, others, strict=True) if a.numel())


def test_shuffling_the_genes_within_a_packed_row_changes_no_answer(network):
    cells = [make_cell(seed) for seed in range(3)]
    shuffled = []
    for c, (keys, genes, labels) in enumerate(cells):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(c)).tolist()
        shuffled.append(([*keys[:FIRST_GENE], *(keys[FIRST_GENE + i] for i in order), keys[-1]], genes, labels))
    assert shuffled != cells
    network = network.double()  # what is left then is a mistake and not the order of a sum
    for one, other in zip(answers_of(network, cells), answers_of(network, shuffled), strict=True):
        assert largest_difference(one, other) <= 1e-12


def test_each_cell_sees_only_itself(network):
    cells = [make_cell(seed) for seed in range(4)]
    changed = [*cells[:2], make_cell(99, n_genes=13, genes=(1, 2, 4)), cells[3]]
    before, after = answers_of(network, cells), answers_of(network, changed)
    for c in (0, 1, 3):
        assert largest_difference(before[c], after[c]) <= 1e-6
    assert (before[2][0] - after[2][0]).abs().max() > 0.1


def test_answers_do_not_depend_on_batch_size_order_or_neighbours(network):
    cells = [make_cell(seed, n_genes=4 + seed) for seed in range(6)]
    network = network.double()
    together = answers_of(network, cells)
    backwards = answers_of(network, cells[::-1])[::-1]
    twice = answers_of(network, [cells[0], *cells])[1:]
    for c, cell in enumerate(cells):
        for others in (answers_of(network, [cell])[0], backwards[c], twice[c]):
            assert largest_difference(together[c], others) <= 1e-12


def test_asking_more_changes_no_answer(network):
    keys, _, _ = make_cell(0)
    alone = answers_of(network, [(keys, [FIRST_GENE + 3], [2])])[0]
    among = answers_of(network, [(keys, [FIRST_GENE + g for g in (1, 3, 20)], [1, 2, 4])])[0]
    assert largest_difference([alone[0], alone[1][0], alone[3]], [among[0], among[1][1], among[3]]) <= 1e-6


def test_every_key_of_a_cell_moves_its_answers(network):
    keys, genes, labels = make_cell(0)
    before = answers_of(network, [(keys, genes, labels)])[0]
    for i in range(len(keys)):
        changed = [*keys[:i], *keys[i + 1 :]]
        after = answers_of(network, [(changed, genes, labels)])[0]
        assert min((a - b).abs().max() for a, b in zip(before[1:3], after[1:3], strict=True)) > 1e-3, f"key {i}"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("places", [[], [0], [0, 18, 19, 20], [13, 14, 14, 15], [35, 36]])
def test_states_that_are_not_read_are_left_out_and_change_nothing(training, places):
    """In any place: [CLS], keys, questions, one twice, none of some cells."""
    network = make_network(hidden_dropout_prob=0.0).train(training)
    inputs = {name: tensor for name, tensor in make_batch([make_cell(0), make_cell(1)]).items() if name in PACKED_CELLS}
    read_at = torch.tensor(places, dtype=torch.int64)
    all_TD, read_RD = network.encode(**inputs), network.encode(**inputs, read_at=read_at)
    assert read_RD.shape == (len(places), 32)
    assert (read_RD - all_TD[read_at]).abs().sum() <= 1e-6 * read_RD.numel()
    read_RD.square().sum().backward()
    gradients = [weights.grad.clone() for weights in network.bert.parameters()]
    network.zero_grad()
    all_TD[read_at].square().sum().backward()
    for gradient, weights in zip(gradients, network.bert.parameters(), strict=True):
        assert torch.allclose(gradient, weights.grad, atol=1e-4, rtol=1e-4)


def test_questions_may_stand_anywhere_and_be_asked_in_any_order(network):
    """As a head on [CLS] asks: at a key, and several times at the same place."""
    batch = make_batch([make_cell(0), make_cell(1)])
    order = torch.tensor([3, 0, 2, 1])
    turned = batch | {"gene_at": batch["gene_at"][order]}
    assert torch.allclose(network(**turned).gene_logits, network(**batch).gene_logits[order], atol=1e-6)
    cls_at = torch.tensor([len(batch["input_ids"][0]) // 2, 0, 0])
    asked = batch | {"label_at": cls_at, "label_phenotype": torch.tensor([1, 1, 3])}
    hidden_TD = network.encode(**{name: batch[name] for name in PACKED_CELLS})
    torch.nn.init.zeros_(network.linear_branch.genes.weight)
    answers = network(**asked).label_logits
    assert torch.allclose(answers[1], network.decode_labels(hidden_TD[cls_at[:2]], 1), atol=1e-6)
    assert torch.allclose(answers[3], network.decode_labels(hidden_TD[:1], 3), atol=1e-6)


@pytest.mark.parametrize("n_bins", [2, N_BINS])
def test_a_group_of_logits_depends_on_its_own_rows_of_the_decoder_alone(n_bins):
    """So its softmax gives nothing to the tokens of other groups."""
    network = make_network(n_bins)
    n_gene_logits = 1 if n_bins == 2 else n_bins
    groups = torch.tensor([n_gene_logits, *SIZES]).cumsum(0).tolist()
    assert network.decoder.out_features == groups[-1]
    before = answers_of(network, [make_cell(0)])[0]
    assert [part.shape[1] for part in before[1:]] == [n_gene_logits, *SIZES]
    assert before[1].shape[0] == 2
    for group, (first, last) in enumerate(zip([0, *groups], groups, strict=False)):
        if first == last:
            continue
        changed = make_network(n_bins)
        with torch.no_grad():
            changed.decoder.weight[first:last] += 1
            changed.decoder.bias[first:last] += torch.arange(last - first) + 1
        for other, (a, b) in enumerate(zip(before[1:], answers_of(changed, [make_cell(0)])[0][1:], strict=True)):
            assert torch.equal(a, b) is (other != group or a.numel() == 0)


def test_logits_are_the_decoder_on_the_state_of_the_question_plus_the_bias_of_the_gene(network):
    batch = make_batch([make_cell(0), make_cell(1, genes=(5,))])
    torch.nn.init.zeros_(network.linear_branch.genes.weight)
    out = network(**batch)
    hidden_TD = network.encode(**{name: batch[name] for name in PACKED_CELLS})
    for i, (at, gene) in enumerate(zip(batch["gene_at"], (3, 17, 5), strict=True)):
        expected = network.decoder(hidden_TD[at])[:N_BINS] + network.gene_bias.weight[gene]
        assert torch.allclose(out.gene_logits[i], expected, atol=1e-6)
    of_last = batch["label_at"][batch["label_phenotype"] == 3]
    assert torch.allclose(out.label_logits[3], network.decoder(hidden_TD[of_last])[:, -4:], atol=1e-6)


def test_the_linear_branch_adds_the_visible_genes_of_a_cell_to_its_questions_for_labels_and_to_nothing_else(network):
    cells = [make_cell(0), make_cell(1, genes=(5,), phenotypes=(3,))]
    batch = make_batch(cells)
    with_it = network(**batch)
    vectors, values = network.linear_branch.genes.weight.clone(), network.linear_branch.bins.detach()
    torch.nn.init.zeros_(network.linear_branch.genes.weight)
    without = network(**batch)
    assert torch.equal(with_it.gene_logits, without.gene_logits)
    groups = network.decoder.weight.split([N_BINS, *SIZES])[1:]
    asked = [0] * len(SIZES)
    for keys, _, labels in cells:
        shown = [(token, slot - FIRST_GENE) for token, slot in keys if FIRST_GENE <= slot < FIRST_GENE + N_GENES]
        sum_D = sum(values[token] * vectors[gene] for token, gene in shown)
        for p in (slot - 1 for slot in labels):
            added_V = with_it.label_logits[p][asked[p]] - without.label_logits[p][asked[p]]
            assert torch.allclose(added_V, groups[p] @ sum_D, atol=1e-5)
            asked[p] += 1
    assert [len(logits) for logits in with_it.label_logits] == asked


def test_in_training_cells_with_an_even_number_of_keys_do_without_the_linear_branch(network):
    """So the half is drawn anew with what is hidden, and is the same in every batch and process."""
    cells = [make_cell(seed, n_genes=n, phenotypes=(1, 3)) for seed, n in enumerate((4, 5, 8, 7, 11))]
    batch = make_batch(cells)
    row = [
        batch["input_ids"],
        batch["position_ids"],
        CellOffsets(batch["n_keys"], batch["n_queries"]),
        batch["label_at"],
    ]
    whole_QD = network.linear_branch(*row)
    kept_QD = network.linear_branch.train()(*row)
    even_Q = (batch["n_keys"] % 2 == 0).repeat_interleave(2)
    assert 0 < even_Q.sum() < len(even_Q)
    assert torch.equal(kept_QD, torch.where(even_Q[:, None], 0.0, whole_QD))
    assert (whole_QD != 0).any(dim=1).all()


def with_unmeasured(network, std=0.5):
    """Give random vectors to the genes that were not measured."""
    torch.nn.init.normal_(network.unmeasured.vectors, std=std)
    torch.nn.init.normal_(network.linear_branch.unmeasured.vectors, std=std)
    return network


def test_unmeasured_genes_start_without_effect_and_learn(network):
    batch = make_batch([make_cell(0), make_cell(1)])
    unmeasured = torch.rand(2, N_GENES) < 0.5
    before, after = network(**batch), network(**batch, unmeasured=unmeasured)
    assert torch.equal(before.gene_logits, after.gene_logits)
    assert all(torch.equal(a, b) for a, b in zip(before.label_logits, after.label_logits, strict=True))
    sum(logits.square().sum() for logits in (after.gene_logits, *after.label_logits)).backward()
    lacked_G = unmeasured.any(0)
    for vectors in (network.unmeasured.vectors, network.linear_branch.unmeasured.vectors):
        moved_G = vectors.grad.abs().sum(1) > 0
        assert torch.equal(moved_G, lacked_G)


@torch.no_grad()
def test_unmeasured_genes_of_a_cell_move_its_predictions_and_those_of_no_other(network):
    network, cells = with_unmeasured(network).double(), [make_cell(seed) for seed in range(3)]
    batch = make_batch(cells)
    unmeasured = torch.zeros(3, N_GENES, dtype=torch.bool)
    before = network(**batch, unmeasured=unmeasured)
    unmeasured[1, [2, 9]] = True
    after = network(**batch, unmeasured=unmeasured)
    differs_C = (before.gene_logits - after.gene_logits).abs().sum(1).reshape(3, -1).sum(1)
    assert differs_C[0] == differs_C[2] == 0
    assert differs_C[1] > 1e-3
    for p in (0, 1, 3):
        differs_C = (before.label_logits[p] - after.label_logits[p]).abs().sum(1)
        assert differs_C[0] == differs_C[2] == 0
        assert differs_C[1] > 1e-3


@torch.no_grad()
def test_one_row_of_unmeasured_genes_stands_for_all_cells(network):
    network, batch = with_unmeasured(network).double(), make_batch([make_cell(0), make_cell(1)])
    shared = torch.rand(1, N_GENES) < 0.5
    one, each = (network(**batch, unmeasured=rows) for rows in (shared, shared.expand(2, -1)))
    assert torch.allclose(one.gene_logits, each.gene_logits, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(one.label_logits, each.label_logits, strict=True))
    hidden = [
        network.encode(**{name: batch[name] for name in PACKED_CELLS}, unmeasured=rows, before_last=True)
        for rows in (shared, shared.expand(2, -1), None)
    ]
    assert torch.allclose(hidden[0], hidden[1], atol=1e-12)
    assert (hidden[0] - hidden[2]).abs().max() > 1e-3


@torch.no_grad()
def test_the_linear_branch_adds_a_scaled_sum_over_unmeasured_genes(network):
    network = with_unmeasured(network)
    batch, unmeasured = make_batch([make_cell(0)]), torch.zeros(1, N_GENES, dtype=torch.bool)
    unmeasured[0, [4, 8, 11]] = True
    row = (batch["input_ids"], batch["position_ids"], CellOffsets(batch["n_keys"], batch["n_queries"]))
    with_it, without = (network.linear_branch(*row, batch["label_at"], one) for one in (unmeasured, None))
    expected_D = network.linear_branch.unmeasured.vectors[[4, 8, 11]].sum(0) / N_GENES**0.5
    assert torch.allclose(with_it - without, expected_D.expand(len(with_it), -1), atol=1e-6)


def test_a_network_without_these_vectors_takes_no_notice():
    network, batch = make_network(unmeasured_vectors=False), make_batch([make_cell(0)])
    assert not [name for name, _ in network.named_parameters() if "unmeasured" in name]
    assert torch.equal(
        network(**batch).gene_logits, network(**batch, unmeasured=torch.ones(1, N_GENES, dtype=torch.bool)).gene_logits
    )


def test_a_batch_without_questions_is_answered_with_nothing(network):
    keys, _, _ = make_cell(0)
    out = network(**make_batch([(keys, [], []), (keys, [], [])]))
    assert out.gene_logits.shape == (0, N_BINS)
    assert [logits.shape for logits in out.label_logits] == [(0, n) for n in SIZES]


def test_hugging_faces_bert_loads_its_part_of_a_saved_network(network, tmp_path):
    from transformers import BertConfig, BertModel

    network.save_pretrained(tmp_path)
    own = BertModel.from_pretrained(tmp_path, config=BertConfig.from_pretrained(tmp_path), add_pooling_layer=False)
    weights = network.bert.state_dict()
    assert weights.keys() == own.state_dict().keys()
    assert all(torch.equal(weights[name], x) for name, x in own.state_dict().items())


@pytest.mark.parametrize("n_bins", [2, N_BINS])
def test_an_untrained_network_that_starts_from_frequencies_answers_them(n_bins):
    """With a decoder of zeros the answer is the share of training cells, counts raised by a half."""
    network = make_network(n_bins)
    torch.nn.init.zeros_(network.decoder.weight)
    bins_GB = torch.randint(0, 50, (N_GENES, n_bins), generator=torch.Generator().manual_seed(0))
    labels = [torch.tensor(counts) for counts in ([3, 9], [5, 0, 1], [], [1, 2, 3, 4])]
    network.start_from_frequencies(bins_GB, labels)
    _, genes, *label_logits = answers_of(network, [make_cell(0)])[0]
    for logits_B, gene in zip(genes, (3, 17), strict=True):
        shares_B = (bins_GB[gene] + 0.5) / (bins_GB[gene] + 0.5).sum()
        found_B = (
            torch.stack([1 - logits_B.sigmoid()[0], logits_B.sigmoid()[0]]) if n_bins == 2 else logits_B.softmax(0)
        )
        assert torch.allclose(found_B, shares_B, atol=1e-5)
    for p in (0, 1, 3):
        shares_V = (labels[p] + 0.5) / (labels[p] + 0.5).sum()
        assert torch.allclose(label_logits[p][0].softmax(0), shares_V, atol=1e-5)
