"""Our AdamW: torch's own where nothing is saved, resumed bit for bit, and learning as fp32 does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed.fsdp
import torch.distributed.tensor

from graftlm.data.encode import encode_texts
from graftlm.data.mixing import mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.data.worlds import generate
from graftlm.models.adapters import make_trainable
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.optimizer import AdamW, adamw, clip_and_step, kept_bytes
from graftlm.training.trainer import Trainer, TrainingSettings

FORMATS = [
    (weights, moments, rounding)
    for weights, rounding in [(torch.float32, "stochastic"), (torch.bfloat16, "stochastic"), (torch.bfloat16, "master")]
    for moments in ("fp32", "bf16", "8bit")
]


def network(dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.nn.Module:
    """Matrices of 16,384 weights, whose moments are quantised, and small vectors, whose are not."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.GELU(), torch.nn.Linear(128, 128))
    return layers.to(device, dtype)


def set_gradients(model: torch.nn.Module, step: int) -> None:
    torch.manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape).to(p)


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters()]


def test_all_fp32_is_torchs_own():
    optimizer = adamw(network(), learning_rate=0.1, weight_decay=0.5)
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["fused"]
    for dtype, moments in [(torch.bfloat16, "fp32"), (torch.float32, "8bit")]:
        assert isinstance(adamw(network(dtype), learning_rate=1, weight_decay=0, moments=moments), AdamW)


def test_ours_in_fp32_is_torchs():
    """Several steps with clipping and decay, against the fused one."""
    models = [network(), network()]
    optimizers = [
        adamw(models[0], learning_rate=1e-2, weight_decay=0.1),
        AdamW(
            [{"params": [p for p in models[1].parameters() if p.ndim >= 2], "weight_decay": 0.1},
             {"params": [p for p in models[1].parameters() if p.ndim < 2], "weight_decay": 0.0}],
            lr=1e-2,
        ),
    ]  # fmt: skip
    for step in range(5):
        norms = []
        for model, optimizer in zip(models, optimizers, strict=True):
            set_gradients(model, step)
            norms.append(clip_and_step(optimizer, list(model.parameters()), 1.0))
        torch.testing.assert_close(*norms)
    for one, other in zip(weights(models[0]), weights(models[1]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_a_gradient_below_the_limit_is_not_scaled():
    model, other = network(torch.bfloat16), network(torch.bfloat16)
    for one, limit in [(model, 1e6), (other, 1e9)]:
        set_gradients(one, 0)
        norm = clip_and_step(adamw(one, learning_rate=1e-2, weight_decay=0), list(one.parameters()), limit)
    exact = torch.cat([p.grad.flatten().double() for p in model.parameters()]).norm()
    assert float(norm) == pytest.approx(float(exact), rel=1e-5)
    assert all(torch.equal(*pair) for pair in zip(weights(model), weights(other), strict=True))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("dtype", "moments", "rounding"), FORMATS)
def test_a_resumed_optimizer_goes_on_to_the_last_bit(dtype, moments, rounding, device, tmp_path):
    def make(model: torch.nn.Module) -> AdamW:
        return AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, moments=moments, rounding=rounding, seed=5)

    whole = network(dtype, device)
    optimizer = make(whole)
    for step in range(6):
        if step == 3:
            torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
        set_gradients(whole, step)
        optimizer.step()
    state = torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu")
    resumed = network(dtype, device)
    resumed.load_state_dict(state["model"])
    again = make(resumed)
    again.load_state_dict(state["optimizer"])
    for step in range(3, 6):
        set_gradients(resumed, step)
        again.step()
    assert all(torch.equal(*pair) for pair in zip(weights(whole), weights(resumed), strict=True))
    for one, other in zip(optimizer.state.values(), again.state.values(), strict=True):
        assert {name: slot.dtype for name, slot in one.items()} == {name: slot.dtype for name, slot in other.items()}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_loaded_state_is_a_copy():
    model = network(torch.bfloat16)
    optimizer = adamw(model, learning_rate=1e-2, weight_decay=0, moments="8bit")
    set_gradients(model, 0)
    optimizer.step()
    state = optimizer.state_dict()
    other = adamw(network(torch.bfloat16), learning_rate=1e-2, weight_decay=0, moments="8bit")
    before = copy.deepcopy(state)
    other.load_state_dict(state)
    set_gradients(model, 1)
    optimizer.step()
    for number, slots in before["state"].items():
        mine = list(other.state.values())[number]
        assert all(torch.equal(slots[name], mine[name]) for name in slots)


@pytest.mark.parametrize(("dtype", "moments", "rounding"), FORMATS)
def test_the_bytes_are_those_that_are_kept(dtype, moments, rounding):
    model = network(dtype)
    optimizer = AdamW([model[0].weight], lr=1e-2, moments=moments, rounding=rounding)
    set_gradients(model, 0)
    optimizer.step()
    [slots] = optimizer.state.values()
    kept = sum(slot.numel() * slot.element_size() for slot in slots.values()) / model[0].weight.numel()
    assert kept == kept_bytes(moments, rounding) - (2 if rounding == "master" and dtype == torch.float32 else 0)


@pytest.fixture
def one_process():
    """A process group of this process alone, without a port."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("moments", ["bf16", "8bit"])
def test_sharded_weights_are_updated_as_whole_ones(moments, one_process):
    whole, sharded = network(torch.bfloat16), network(torch.bfloat16)
    torch.distributed.fsdp.fully_shard(sharded, mesh=one_process)
    norms = []
    for model in (whole, sharded):
        optimizer = adamw(model, learning_rate=1e-2, weight_decay=0.1, moments=moments, rounding="master")
        for step in range(3):
            torch.manual_seed(step)
            model(torch.randn(4, 128, dtype=torch.bfloat16)).float().square().sum().backward()
            norms.append(clip_and_step(optimizer, list(model.parameters()), 1.0))
            optimizer.zero_grad()
    assert norms[:3] == norms[3:]
    for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
        assert torch.equal(one, other.full_tensor())
    slots = optimizer.state[next(sharded.parameters())]
    assert all(isinstance(slot, torch.distributed.tensor.DTensor) for slot in slots.values())


def moved_by(rounding: str, steps: int = 200, device: str = "cpu") -> torch.Tensor:
    """How far 10,000 bf16 weights of 1 go on a constant gradient at a rate of 1e-5: `steps` × 1e-5, if all is kept."""
    weight = torch.nn.Parameter(torch.ones(10_000, dtype=torch.bfloat16, device=device))
    optimizer = AdamW([weight], lr=1e-5, rounding=rounding)  # type: ignore[arg-type]
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return 1 - weight.detach().double()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_small_updates_vanish_in_bf16_unless_rounded_stochastically(device):
    """An update of 1e-5 is 1/391 of the step from 1 down to the next bf16 number."""
    assert not moved_by("nearest", device=device).any()
    moved = moved_by("stochastic", device=device)
    assert float(moved.mean()) == pytest.approx(200e-5, rel=0.05)
    assert moved_by("master", 500, device).unique().tolist() == [2**-8], "0.005, said by the nearest bf16 number"


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2", "gemma2", "bloom", "qwen2_moe"])
def test_bf16_weights_need_no_autocast(family, tiny_model, make_plan):
    """The gradient of a bf16 model points where that of the same model in fp32 does."""
    row = make_plan([12, 20], row_tokens=32).row(0)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = make_trainable(tiny_model(family, spread=0.05), "full", weights=dtype)
        CausalLM()(model, row).total.backward()
        assert all(p.grad is None or p.grad.dtype == dtype for p in model.parameters())
        found.append(torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*found, dim=0) > 0.99


# --- The rootstock, all formats on the same data


@pytest.fixture(scope="module")
def clinic() -> PackingPlan:
    """12 steps of 512 tokens of clinic documents."""
    texts = list(generate("clinic", "documents", count=200, start=0, seed=0))
    store = TokenStore.in_memory(encode_texts(load_tokenizer("rootstock"), texts), kind="text")
    return pack(mix({"a": store}, {"a": 1.0}, 12 * 500, "hybrid", 0), row_tokens=512)


def loss_after(
    clinic: PackingPlan, dtype: torch.dtype, moments: str, rounding: str, device: str
) -> tuple[float, float]:
    """Loss of the first and of the last steps."""
    model = load_model("rootstock", dtype=torch.float32, device=torch.device(device))
    model = make_trainable(model, "full", weights=dtype)
    settings = TrainingSettings(learning_rate=4e-4, moments=moments, rounding=rounding, log_every=4)  # type: ignore[arg-type]
    losses = Trainer(model, CausalLM(), clinic, settings).fit().losses
    assert {p.dtype for p in model.parameters()} == {dtype}
    return losses[0]["loss"], losses[-1]["loss"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_format_learns_as_fp32_does(clinic, device):
    first, wanted = loss_after(clinic, torch.float32, "fp32", "stochastic", device)
    assert wanted < first - 0.5, "the run is long enough to learn something"
    for dtype, moments, rounding in [
        (torch.bfloat16, "fp32", "stochastic"),
        (torch.bfloat16, "bf16", "master"),
        (torch.bfloat16, "8bit", "stochastic"),
    ]:
        _, found = loss_after(clinic, dtype, moments, rounding, device)
        print(f"{dtype} {moments} {rounding}: {found:.4f}, fp32 {wanted:.4f}, at first {first:.4f}")
        assert abs(found - wanted) < 0.05 * (first - wanted), (dtype, moments, rounding)
