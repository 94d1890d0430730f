"""Attention within cells, against one large masked attention and against the kernel."""

import pytest
import torch

from polygene.nn.attention import CellOffsets, _kernel, _loop, packed_attention

HEADS, WIDTH = 3, 8
CELLS = [(0, 11), (11, 31), (31, 51), (51, 61)]


@pytest.fixture
def offsets():
    return CellOffsets(torch.tensor([8, 20, 13, 9]), torch.tensor([3, 0, 7, 1]))


def row(n, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, HEADS, n, WIDTH, generator=generator).to(**kwargs).requires_grad_() for _ in range(3)]


def who_sees_whom(offsets):
    """(T, T) bool, token by token: true where the second is a key of the cell of the first."""
    cells, keys = [], []
    for c, (n_keys, n_queries) in enumerate(zip(offsets.n_keys_C.tolist(), offsets.n_queries_C.tolist(), strict=True)):
        cells += [c] * (n_keys + n_queries)
        keys += [True] * n_keys + [False] * n_queries
    return torch.tensor([[keys[j] and cells[i] == cells[j] for j in range(len(cells))] for i in range(len(cells))])


def masked_attention(q_1HTE, k_1HTE, v_1HTE, sees_TT, scaling):
    scores = (q_1HTE @ k_1HTE.transpose(2, 3) * scaling).masked_fill(~sees_TT, -torch.inf)
    return (scores.softmax(-1) @ v_1HTE).transpose(1, 2)


@pytest.mark.parametrize("scaling", [WIDTH**-0.5, 0.1])
def test_every_token_sees_the_keys_of_its_own_cell_and_nothing_else(offsets, scaling):
    sees_TT = who_sees_whom(offsets)
    q, k, v = row(len(sees_TT))
    o_1THE = packed_attention(q, k, v, offsets, scaling=scaling)
    expected = masked_attention(q, k, v, sees_TT, scaling)
    assert (o_1THE - expected).abs().max() < 1e-6
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad((o_1THE * direction).sum(), (q, k, v))
    for gradient, other in zip(gradients, torch.autograd.grad((expected * direction).sum(), (q, k, v)), strict=True):
        assert (gradient - other).abs().max() < 1e-5


def test_offsets_say_where_cells_and_keys_lie(offsets):
    sees_TT = who_sees_whom(offsets)
    assert offsets.key_at_K.tolist() == torch.nonzero(sees_TT.any(0)).flatten().tolist()
    assert offsets.starts_C.tolist() == [0, 11, 31, 51]
    assert offsets.ends_C.tolist() == [11, 31, 51, 61]
    assert offsets.attending == [11, 20, 20, 10]
    assert offsets.keys_then_queries == [8, 3, 20, 0, 13, 7, 9, 1]
    assert offsets.cumulative(offsets.n_keys_C).tolist() == [0, 8, 28, 41, 50]
    assert offsets.cumulative(offsets.n_keys_C).dtype == torch.int32


@pytest.mark.parametrize("places", [[], [0, 11, 31, 51], [10, 11, 12, 30, 31], [40], [60, 60], list(range(61))])
def test_tokens_that_do_not_attend_are_left_out_and_change_nothing(offsets, places):
    q, k, v = row(61)
    some = CellOffsets(offsets.n_keys_C, offsets.n_queries_C, torch.tensor(places, dtype=torch.int64))
    assert some.attending == [sum(first <= at < last for at in places) for first, last in CELLS]
    o_1AHE = _loop(q[:, :, places], k, v, some, None, 0.0)
    assert (o_1AHE - _loop(q, k, v, offsets, None, 0.0)[:, places]).abs().sum() <= 1e-6 * o_1AHE.numel()


def test_dropout_drops_attention_and_keeps_its_mean(offsets):
    q, k, v = row(len(who_sees_whom(offsets)))
    kept = _loop(q, k, v, offsets, None, 0.0)
    torch.manual_seed(0)
    dropped = torch.stack([_loop(q, k, v, offsets, None, 0.4) for _ in range(400)])
    assert (dropped[0] - kept).abs().max() > 0.1
    standard_errors = (dropped.mean(0) - kept) / (dropped.std(0) / 20)
    assert standard_errors.abs().mean() < 1, "0.8 is expected of 400 unbiased draws"


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_input_is_attended_in_float32_and_rounded_once(offsets, autocast):
    q, k, v = row(len(who_sees_whom(offsets)), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        o_1THE = _loop(q, k, v, offsets, None, 0.0)
    exact = masked_attention(q.float(), k.float(), v.float(), who_sees_whom(offsets), WIDTH**-0.5)
    assert o_1THE.dtype == torch.bfloat16
    assert ((o_1THE - exact).abs() <= 2.0**-8 * exact.abs() + 1e-6).all()


def test_the_kernel_is_handed_all_tokens_as_queries_and_the_keys_alone_as_keys(offsets, monkeypatch):
    """The kernel runs on GPUs only; what it is asked to compute is checked here, in its words, on any machine."""

    def kernel(q_THE, k_KHE, v_KHE, q_ends, k_ends, longest_q, longest_k, *, scale):
        lengths, n_keys = q_ends.diff().tolist(), k_ends.diff().tolist()
        assert (longest_q, longest_k) == (max(lengths), max(n_keys))
        outputs = []
        for q, k, v in zip(q_THE.split(lengths), k_KHE.split(n_keys), v_KHE.split(n_keys), strict=True):
            weights = (torch.einsum("qhe,khe->qhk", q, k) * scale).softmax(-1)
            outputs.append(torch.einsum("qhk,khe->qhe", weights, v))
        return torch.cat(outputs)

    pytest.importorskip("torch.nn.attention.varlen", reason="older torch has no variable-length kernel")
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    q, k, v = row(61)
    assert (_kernel(q, k, v, offsets, 0.3) - _loop(q, k, v, offsets, 0.3, 0.0)).abs().max() < 1e-6
    places = torch.tensor([3, 10, 40, 60])
    some = CellOffsets(offsets.n_keys_C, offsets.n_queries_C, places)
    q = q[:, :, places]
    assert (_kernel(q, k, v, some, 0.3) - _loop(q, k, v, some, 0.3, 0.0)).abs().max() < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the variable-length kernel needs CUDA, and there is none")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_agrees_with_the_loop_within_the_rounding_of_its_precision(dtype):
    """Bound: four roundings (scores, weights, sums, result) of 2^-9 or 2^-12, of values up to the largest of v.

    Gradients sum over up to 60 tokens and are held to the same bound relative to their largest entry, four times.
    """
    rounding = torch.finfo(dtype).eps / 2
    offsets = CellOffsets(torch.tensor([8, 40, 13, 9]).cuda(), torch.tensor([3, 0, 20, 1]).cuda())
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 94, 64, generator=generator).cuda().to(dtype).requires_grad_() for _ in range(3))
    from_kernel = packed_attention(q, k, v, offsets, scaling=0.125)
    exact = _loop(*(x.detach().float().requires_grad_() for x in (q, k, v)), offsets, 0.125, 0.0)
    assert from_kernel.dtype == dtype
    assert (from_kernel.float() - exact).abs().max() <= 4 * rounding * v.abs().max()
    direction = torch.randn_like(exact)
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad((_loop(*wide, offsets, 0.125, 0.0) * direction).sum(), wide)
    found = torch.autograd.grad((from_kernel.float() * direction).sum(), (q, k, v))
    for gradient, other in zip(found, expected, strict=True):
        assert (gradient.float() - other).abs().max() <= 16 * rounding * other.abs().max()
