"""Packed rows against padded Hugging Face BertModel: the same weights, the same questions, the same answers.

The padded form is what anybody would write down without packing: every cell stands at full length, unexpressed genes
as bin 0, and an attention mask says which places are keys. A hidden gene that is asked holds [MASK] in its own place,
which is no key. A hidden phenotype leaves its [NO_*] key in its place, so its [MASK] stands once more behind the cell.

Legend: C cells, S padded places (n_slots + P), T packed tokens, D width.
"""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from polygene.model.inference import shared_tokens
from polygene.model.masking import MaskingCollator, MaskingConfig
from polygene.nn.config import PolyGeneConfig
from polygene.nn.known import KnownTokens
from polygene.nn.losses import LossConfig, PolyGeneLoss
from polygene.nn.network import PolyGeneModel

FORWARD = (
    "input_ids",
    "position_ids",
    "token_type_ids",
    "n_keys",
    "n_queries",
    "gene_at",
    "label_at",
    "label_phenotype",
    "unmeasured",
)
PACKED_CELLS = (*FORWARD[:5], "unmeasured")
TRUTH = ("bins", "bin_weights", "labels", "label_weights", "label_phenotype")
PANELS = [(512, 0.2, 5), (2432, 0.12, 2)]


class Case:
    """A model without dropout, a training batch, and both of them padded."""

    def __init__(self, tokenizer, cells, implementation, **shape):
        self.tokenizer = tokenizer
        shape = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128} | shape
        sizes = [len(labels) for labels in tokenizer.schema.labels]
        config = PolyGeneConfig(
            n_genes=len(tokenizer.panel),
            n_bins=tokenizer.binner.n_bins,
            phenotype_sizes=sizes,
            vocab_size=tokenizer.n_tokens,
            hidden_dropout_prob=0.0,
            initializer_range=0.1,
            **shape,
        )
        torch.manual_seed(0)
        self.model = PolyGeneModel(config).train()
        torch.nn.init.normal_(self.model.gene_bias.weight)
        torch.nn.init.normal_(self.model.unmeasured.vectors)
        collator = MaskingCollator(
            tokenizer=tokenizer, measured_SG=cells.measured_G[None], config=MaskingConfig(unmeasured_rate=1.0), seed=1
        )
        numbers_C = np.arange(len(cells))
        self.batch = collator(cells, np.zeros_like(numbers_C), numbers_C, np.zeros_like(numbers_C))
        self.loss_of = PolyGeneLoss(
            config=LossConfig(), n_bins=config.n_bins, phenotype_sizes=sizes, years=[None] * len(sizes)
        )
        fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
        bert_config = BertConfig(**fields, attn_implementation=implementation)
        self.bert = BertModel(bert_config, add_pooling_layer=False).train()
        self.bert.load_state_dict(self.model.bert.state_dict())
        assert self.bert.config._attn_implementation == implementation
        assert 0 < self.batch["unmeasured"].float().mean() < 0.8
        self.start = tokenizer.phenotype_slots[-1] + 1
        self._pad(tokenizer, len(cells))

    def _pad(self, tokenizer, n_cells):
        n_phenotypes = len(tokenizer.schema.phenotypes)
        self.ids_CS = torch.zeros(n_cells, tokenizer.n_slots + n_phenotypes, dtype=torch.int64)
        self.ids_CS[:, tokenizer.n_slots :] = tokenizer.mask_id
        self.slots_S = torch.cat([torch.arange(tokenizer.n_slots), torch.arange(1, n_phenotypes + 1)])
        self.is_key_CS = torch.zeros(self.ids_CS.shape, dtype=torch.bool)
        self.types_CS = torch.zeros_like(self.ids_CS)
        types = iter(self.batch["token_type_ids"][0].tolist())
        self.cell_T, self.place_T = [], []
        tokens = iter(zip(self.batch["input_ids"][0].tolist(), self.batch["position_ids"][0].tolist(), strict=True))
        for c, (n_keys, n_queries) in enumerate(zip(self.batch["n_keys"], self.batch["n_queries"], strict=True)):
            for i in range(int(n_keys + n_queries)):
                token, slot = next(tokens)
                place = slot if i < n_keys or slot > n_phenotypes else tokenizer.n_slots - 1 + slot
                assert not self.is_key_CS[c, place], "a place is taken once"
                self.ids_CS[c, place] = token
                self.types_CS[c, place] = next(types)
                self.is_key_CS[c, place] = i < n_keys
                self.cell_T.append(c)
                self.place_T.append(place)

    def packed_hidden(self):
        return self.model.encode(**{name: self.batch[name] for name in PACKED_CELLS})

    def padded_hidden(self, is_key_CS=None):
        """Hidden states (T, D) of padded BERT at the places of the packed tokens."""
        is_key_CS = self.is_key_CS if is_key_CS is None else is_key_CS
        n_cells, n_places = self.ids_CS.shape
        mask_C1SS = torch.zeros(n_cells, 1, n_places, n_places)
        mask_C1SS.masked_fill_(~is_key_CS[:, None, None, :], torch.finfo(torch.float32).min)
        x_CSD = self.bert.embeddings.word_embeddings(self.ids_CS).clone()
        for c, unmeasured_G in enumerate(self.batch["unmeasured"]):
            for g in unmeasured_G.nonzero()[:, 0]:
                x_CSD[c, self.start] += self.model.unmeasured.vectors[g].detach() * self.model.config.n_genes**-0.5
        hidden_CSD = self.bert(
            inputs_embeds=x_CSD,
            position_ids=self.slots_S.expand(n_cells, -1),
            token_type_ids=self.types_CS,
            attention_mask=mask_C1SS,
        ).last_hidden_state
        return hidden_CSD[self.cell_T, self.place_T]

    def loss(self, gene_logits, label_logits):
        truth = {name: self.batch[name] for name in TRUTH}
        n_cells = len(self.batch["n_keys"])
        return self.loss_of(gene_logits=gene_logits, label_logits=label_logits, n_cells=n_cells, **truth)["loss"]

    def packed_gradients(self):
        """Loss and gradients as the training computes them, through `forward`."""
        self.model.zero_grad()
        answers = self.model(**{name: self.batch[name] for name in FORWARD})
        loss = self.loss(answers.gene_logits, answers.label_logits)
        loss.backward()
        return loss.item(), {name: weights.grad.clone() for name, weights in self.model.bert.named_parameters()}

    def padded_gradients(self):
        """The same of padded BERT: one linear decoder over all tokens, cut into slot groups afterwards."""
        self.bert.zero_grad()
        logits_TL = self.padded_hidden() @ self.model.decoder.weight.detach().T + self.model.decoder.bias.detach()
        sizes = self.model.config.phenotype_sizes
        genes = self.batch["position_ids"][0, self.batch["gene_at"]] - len(sizes) - 2
        groups = logits_TL.split([self.model.config.n_bins, *sizes], dim=1)
        of_p = [self.batch["label_phenotype"] == p for p in range(len(sizes))]
        gene_logits = groups[0][self.batch["gene_at"]] + self.model.gene_bias.weight.detach()[genes]
        label_logits = [logits[self.batch["label_at"][asked]] for logits, asked in zip(groups[1:], of_p, strict=True)]
        loss = self.loss(gene_logits, label_logits)
        loss.backward()
        return loss.item(), {name: weights.grad.clone() for name, weights in self.bert.named_parameters()}


@pytest.fixture
def case(make_tokenizer, make_cells):
    def make(n_genes, density, n_cells, implementation="sdpa", **shape):
        tokenizer = make_tokenizer(n_genes)
        return Case(tokenizer, make_cells(tokenizer, n_cells, density), implementation, **shape)

    return make


def largest_difference(gradients, others):
    assert gradients.keys() == others.keys()
    return max((gradients[name] - others[name]).abs().max().item() for name in gradients)


@pytest.mark.parametrize(
    ("n_genes", "density", "n_cells", "implementation"),
    [(*panel, "sdpa") for panel in PANELS] + [(*PANELS[0], "eager")],
)
@torch.no_grad()
def test_packed_keys_and_queries_give_what_padded_bert_gives(case, n_genes, density, n_cells, implementation):
    case = case(n_genes, density, n_cells, implementation)
    packed_TD, padded_TD = case.packed_hidden(), case.padded_hidden()
    assert min(case.batch["n_queries"]) > 0
    assert (packed_TD - padded_TD).abs().max() <= 1e-5
    without_mask_TD = case.padded_hidden(torch.ones_like(case.is_key_CS))
    assert (packed_TD - without_mask_TD).abs().max() > 1e-2, "the mask must matter, or this test could not fail"


@torch.no_grad()
def test_packed_gives_what_padded_bert_gives_at_256_wide_and_4_layers(case):
    shape = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024}
    case = case(512, 0.2, 3, **shape)
    assert (case.packed_hidden() - case.padded_hidden()).abs().max() <= 1e-5


@pytest.mark.parametrize(("n_genes", "density", "n_cells"), PANELS)
@torch.no_grad()
def test_states_of_phenotypes_are_those_of_padded_bert_with_known_tokens_and_without_keys_and_values(
    case, n_genes, density, n_cells
):
    case = case(n_genes, density, n_cells)
    known, read_at = (
        KnownTokens.of(case.model.bert, shared_tokens(case.tokenizer)),
        case.batch["label_at"].sort().values,
    )
    is_known_T = np.isin(keys_of(case), known.keys_N)
    assert 0.1 < is_known_T.mean() < 1
    padded_RD, row = case.padded_hidden()[read_at], {name: case.batch[name] for name in PACKED_CELLS}
    for few in (False, True):
        read_RD = case.model.encode(**row, read_at=read_at, few=few, known=known)
        assert (read_RD - padded_RD).abs().max() <= 1e-5
    known.first.k_TD[:] += 1.0 + torch.arange(64)
    moved_RD = case.model.encode(**row, read_at=read_at, few=True, known=known)
    assert (moved_RD - padded_RD).abs().max() > 1e-2, "known tokens must be read, or this test could not fail"


def keys_of(case):
    """Slot and id of every packed token as one number."""
    return case.batch["position_ids"][0] * case.model.config.vocab_size + case.batch["input_ids"][0]


@pytest.mark.parametrize(("n_genes", "density", "n_cells"), PANELS)
def test_packed_loss_and_gradients_are_those_of_padded_bert(case, n_genes, density, n_cells):
    case = case(n_genes, density, n_cells)
    packed_loss, packed = case.packed_gradients()
    padded_loss, padded = case.padded_gradients()
    assert packed_loss == pytest.approx(padded_loss, abs=1e-5)
    assert max(gradient.abs().max() for gradient in padded.values()) > 1e-2
    assert largest_difference(packed, padded) <= 1e-5


def test_gradient_checkpointing_changes_no_gradient(case):
    case = case(512, 0.2, 3)
    loss, gradients = case.packed_gradients()
    calls = []
    case.model.bert.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    case.packed_gradients()
    assert len(calls) == 1
    case.model.bert.gradient_checkpointing = True
    loss_checkpointed, gradients_checkpointed = case.packed_gradients()
    assert len(calls) == 3, "a checkpointed layer runs forward once more"
    assert loss_checkpointed == loss
    assert largest_difference(gradients, gradients_checkpointed) <= 1e-7
