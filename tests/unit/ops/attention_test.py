"""Packed attention equals its definition, values and gradients, for all documents, heads and windows."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from graftlm.ops.attention import (
    FLASH,
    documents_of_like_length,
    kernels_for,
    lay_out,
    packed_attention,
    packed_attention_reference,
)


def boundaries_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()


def by_length(boundaries: torch.Tensor):
    return lay_out(boundaries, int(boundaries[-1]), int(boundaries.diff().max()), "by_length")


def random_qkv(T: int, H: int, G: int, D: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(T, heads, D, generator=generator, requires_grad=True) for heads in (H, G, G)]


CASES = [
    # lengths, query heads, key heads, head size, window, scale
    ([1], 2, 2, 8, None, None),
    ([1, 1, 1, 5], 2, 2, 8, None, None),
    ([7, 1, 2, 16, 3, 33, 1], 4, 4, 16, None, None),
    ([64, 5, 63, 65], 4, 2, 8, None, 0.3),
    ([40, 1, 9], 6, 1, 4, 5, None),
    ([3, 2, 17, 8], 4, 2, 8, 1, None),
    ([3, 2, 17, 8], 4, 2, 8, 17, None),
    ([30, 31], 2, 1, 32, 1000, 1.5),
]


@pytest.mark.parametrize(("lengths", "H", "G", "D", "window", "scale"), CASES)
def test_values_and_gradients_equal_the_definition(lengths, H, G, D, window, scale):
    T, boundaries = sum(lengths), boundaries_of(lengths)
    probe = torch.randn(T, H, D, generator=torch.Generator().manual_seed(9))
    found = []
    for function in (packed_attention, packed_attention_reference):
        qkv = random_qkv(T, H, G, D, seed=T)
        place = by_length(boundaries) if function is packed_attention else boundaries
        out = function(*qkv, place, scale=scale, window=window)
        found.append([out, *torch.autograd.grad((out * probe).sum(), qkv)])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("lengths", "H", "G", "D", "window", "scale"), CASES[1:5])
def test_flex_under_a_document_mask_equals_the_definition(lengths, H, G, D, window, scale):
    T, boundaries = sum(lengths), boundaries_of(lengths)
    qkv = [x.detach() for x in random_qkv(T, H, G, D, seed=T)]  # on a CPU torch has no gradients of it
    layout = lay_out(boundaries, T, max(lengths), "flex")
    found = packed_attention(*qkv, layout, scale=scale, window=window)
    wanted = packed_attention_reference(*qkv, boundaries, scale=scale, window=window)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_random_rows(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = [int(x) for x in torch.randint(1, 40, (12,), generator=generator)]
    window = None if seed % 2 else int(torch.randint(1, 30, (1,), generator=generator))
    qkv, boundaries = random_qkv(sum(lengths), 4, 2, 8, seed), boundaries_of(lengths)
    fast = packed_attention(*qkv, by_length(boundaries), window=window)
    torch.testing.assert_close(fast, packed_attention_reference(*qkv, boundaries, window=window), atol=2e-5, rtol=1e-4)


def test_the_reference_itself_is_one_softmax_a_document():
    lengths = [3, 5]
    qkv, boundaries = random_qkv(8, 1, 1, 4, seed=1), boundaries_of(lengths)
    out = packed_attention_reference(*qkv, boundaries)
    q, k, v = (x[3:, 0] for x in qkv)
    weights = ((q @ k.T) / 2).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(out[3:, 0], weights @ v)
    torch.testing.assert_close(out[0], qkv[2][0])


def test_a_document_does_not_see_its_neighbour():
    qkv, boundaries = random_qkv(20, 2, 2, 8, seed=0), boundaries_of([8, 12])
    before = packed_attention(*qkv, by_length(boundaries)).detach().clone()
    with torch.no_grad():
        for x in qkv:
            x[:8] += 1
    after = packed_attention(*qkv, by_length(boundaries))
    assert torch.equal(after[8:], before[8:])
    assert not torch.allclose(after[:8], before[:8])


def test_value_heads_may_have_another_size():
    q, k, _ = random_qkv(9, 2, 2, 8, seed=0)
    value = torch.randn(9, 2, 6)
    boundaries = boundaries_of([4, 5])
    found = packed_attention(q, k, value, by_length(boundaries))
    torch.testing.assert_close(found, packed_attention_reference(q, k, value, boundaries))


def test_autocast_brings_mixed_inputs_to_one_kind():
    q, k, v = (x.detach() for x in random_qkv(9, 2, 2, 8, seed=0))
    boundaries = boundaries_of([4, 5])
    with torch.autocast("cpu", torch.bfloat16):
        found = packed_attention(q, k, v.bfloat16(), by_length(boundaries))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), packed_attention_reference(q, k, v, boundaries), atol=3e-2, rtol=3e-2)


def test_groups_by_length_cover_each_token_once_and_waste_less_than_half():
    lengths = [1, 2, 3, 4, 5, 64, 100, 1000, 7, 1]
    boundaries = boundaries_of(lengths)
    seen = []
    for place, real in documents_of_like_length(boundaries):
        assert real.float().mean() > 0.5
        seen += place[real].tolist()
        firsts = place[:, 0]
        assert torch.equal(place[real], (firsts[:, None] + torch.arange(real.shape[1])).expand_as(place)[real])
    assert sorted(seen) == list(range(sum(lengths)))


def test_documents_of_one_length_are_told_from_others():
    assert lay_out(boundaries_of([4, 4, 4]), 12, 4, "varlen").kernel == "uniform"
    layout = lay_out(boundaries_of([4, 4, 3]), 11, 4, "varlen")
    assert layout.kernel == "varlen"
    assert layout.boundaries.tolist() == [0, 4, 8, 11, 11]  # four documents, one of them empty


def test_on_a_cpu_only_one_kernel_attends():
    assert kernels_for(torch.device("cpu"), 64) == ["by_length"]


@pytest.mark.parametrize(("kernel", "module"), FLASH.items())
@pytest.mark.parametrize("window", [None, 5])
def test_an_installed_flash_attention_is_called_as_its_package_wants(kernel, module, window, monkeypatch):
    """By a stand-in with the arguments that both packages name, which computes the definition."""

    def flash_attn_varlen_func(
        q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal,
        window_size=(None, None),
    ):  # fmt: skip
        assert causal and cu_seqlens_q is cu_seqlens_k and max_seqlen_q == max_seqlen_k >= cu_seqlens_q.diff().max()
        left = window_size[0]
        seen = None if left is None else left + 1
        return packed_attention_reference(q, k, v, cu_seqlens_q, scale=softmax_scale, window=seen), "normalisers"

    for name in (module.partition(".")[0], module):
        stand_in = ModuleType(name)
        stand_in.__spec__, stand_in.__path__ = ModuleSpec(name, None), []
        stand_in.flash_attn_varlen_func = flash_attn_varlen_func
        monkeypatch.setitem(sys.modules, name, stand_in)
    assert kernel in kernels_for(torch.device("cuda"), 64)
    boundaries = boundaries_of([7, 1, 30])
    q, k, v = (x.detach().bfloat16() for x in random_qkv(38, 4, 2, 16, seed=0))
    found = packed_attention(q, k, v, lay_out(boundaries, 38, 30, kernel), window=window)
    torch.testing.assert_close(found, packed_attention_reference(q, k, v, boundaries, window=window))


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["documents", "varlen", "flex", "uniform"])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("D", [64, 96, 128, 256])
def test_each_gpu_kernel_equals_the_definition(kernel, window, groups, D):
    lengths = [64, 64, 64] if kernel == "uniform" else [5, 1, 130, 64]
    T = sum(lengths)
    q, k, v = (x.detach().cuda().bfloat16().requires_grad_() for x in random_qkv(T, 4, 4 // groups, D, 0))
    boundaries = boundaries_of(lengths).cuda()
    layout = lay_out(boundaries, T, max(lengths), "varlen" if kernel == "uniform" else kernel)
    assert layout.kernel == kernel
    fast = packed_attention(q, k, v, layout, window=window)
    plain = packed_attention_reference(q.float(), k.float(), v.float(), boundaries, window=window)
    weights = torch.randn_like(plain)
    gradients = (torch.autograd.grad((out.float() * weights).sum(), (q, k, v)) for out in (fast, plain))
    for one, other in zip((fast, *next(gradients)), (plain, *next(gradients)), strict=True):
        assert (one.float() - other.float()).norm() <= 1e-2 * other.float().norm()
