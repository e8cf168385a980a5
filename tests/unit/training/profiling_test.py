"""The profile of a few steps: classes by name, times that add up, files beside the stage."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from graftlm.models.adapters import make_trainable
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.profiling import ELEMENTWISE, IDLE, StepProfile, breakdown, class_of, covered
from graftlm.training.trainer import Trainer, TrainingSettings

NAMES = {
    "matmul": ["nvjet_tst_256x128_64x4_1x2_h_bz_TNT", "sm90_xmma_gemm_bf16bf16_bf16f32", "aten::mm", "aten::addmm"],
    "attention": ["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma", "flash_bwd_kernel", "fmha_cutlassF_bf16"],
    "optimizer": ["_adamw", "multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>", "aten::_fused_adamw_"],
    "loss": ["cunn_SoftMaxForward", "aten::_log_softmax_backward_data", "nll_loss_forward_reduce"],
    "communication": ["ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL", "c10d::_allgather_base_"],
    "copy and gather": ["Memcpy HtoD (Pinned -> Device)", "direct_copy_kernel_cuda", "aten::copy_", "aten::index"],
    ELEMENTWISE: ["vectorized_elementwise_kernel<MulFunctor>", "triton_red_fused_mean_mul_pow_rsqrt", "aten::mul"],
}


@pytest.mark.parametrize("kind", NAMES)
def test_kernels_are_told_apart_by_their_names(kind):
    assert {name: class_of(name) for name in NAMES[kind]} == dict.fromkeys(NAMES[kind], kind)


def test_the_union_of_intervals():
    assert covered([]) == 0
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4


def kernel(name: str, start: float, end: float, **more: object) -> SimpleNamespace:
    times = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(name=name, device_type=DeviceType.CUDA, time_range=times, **more)


def test_times_on_a_gpu_add_up_to_the_steps():
    """Two steps of 10 ms: kernels run for 12 ms, 2 of them two at a time; the mark around them is no kernel."""
    events = [
        kernel("gemm", 0, 6000),
        kernel("ncclDevKernel", 4000, 8000),
        kernel("_adamw", 12000, 14000),
        kernel("Optimizer.step#AdamW.step", 11000, 15000, is_user_annotation=True),
        SimpleNamespace(name="aten::mm", device_type=DeviceType.CPU),
    ]
    found = breakdown(events, 20.0, on_gpu=True, steps=2)
    assert found == pytest.approx(
        {"matmul": 3 * 10 / 12, "communication": 2 * 10 / 12, "optimizer": 10 / 12, IDLE: 5.0}
    )
    assert sum(found.values()) == pytest.approx(10)


def profiled(tiny_model, make_plan, folder, steps: int) -> StepProfile:
    model = make_trainable(tiny_model(), "full")
    plan = make_plan([60] * steps, row_tokens=64)
    found = StepProfile(folder / "01-sft", torch.device("cpu"))
    Trainer(model, CausalLM(), plan, TrainingSettings(learning_rate=1e-3)).fit(found)
    found.close()
    return found


@pytest.mark.parametrize(("steps", "recorded"), [(9, 3), (5, 2)])
def test_a_run_on_the_cpu_is_profiled(tiny_model, make_plan, tmp_path, steps, recorded):
    found = profiled(tiny_model, make_plan, tmp_path, steps)
    assert found.milliseconds is not None
    assert {"matmul", "attention", "loss", "optimizer", ELEMENTWISE, IDLE} <= set(found.milliseconds)
    assert all(spent >= 0 for spent in found.milliseconds.values())
    written = json.loads((tmp_path / "01-sft" / "profile.json").read_text())
    assert written == {"steps": recorded, "milliseconds_a_step": found.milliseconds}
    trace = json.loads((tmp_path / "01-sft" / "trace.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert any(name.startswith("Optimizer.step") for name in names) and "aten::mm" in names
    table = found.table()
    assert table is not None and table.row_count == len(found.milliseconds) + 1


def test_too_short_a_run_has_no_profile(tiny_model, make_plan, tmp_path):
    found = profiled(tiny_model, make_plan, tmp_path, steps=3)
    assert found.milliseconds is None and found.table() is None
    assert not (tmp_path / "01-sft").exists()
