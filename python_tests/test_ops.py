"""The operators as torch sees them: schemas, fake kernels, tracing; and how the native code was built."""

import re

import pytest
import torch
from settings import Setting

import irecgan_ext
from irecgan_ext import ops

OPERATORS = torch.ops.irecgan_ext


def topk_arguments(rows: int = 4, items: int = 70, k: int = 3, dtype: torch.dtype = torch.float32):
    logits = torch.randn(rows, items, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return logits, k, torch.tensor(5), torch.arange(rows), 2


def rollout_arguments(cell: str, reward: str, layers: int, completions: int, scored: bool = True):
    setting = Setting(cell, reward, layers=layers)
    rows = torch.arange(7)
    states = [m.encoder.initial_state(1) for m in setting.models]
    prefix = (states, rows, rows % 4 + 1, rows.float())
    return tuple(setting.arguments(rows, completions, scored=scored, prefix=prefix).values())


@pytest.mark.parametrize("name", ["gumbel_topk", "check_gumbel_topk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 4])
def test_opcheck_gumbel_topk(name, dtype, rows):
    torch.library.opcheck(getattr(OPERATORS, name), topk_arguments(rows, dtype=dtype))


@pytest.mark.parametrize("name", ["rollout", "check_rollout"])
@pytest.mark.parametrize(
    ("cell", "reward", "layers", "completions", "scored"),
    [("gru", "survival", 1, 0, False), ("gru", "survival", 2, 2, True), ("lstm", "binary", 1, 2, True)],
)
def test_opcheck_rollout(name, cell, reward, layers, completions, scored):
    torch.library.opcheck(getattr(OPERATORS, name), rollout_arguments(cell, reward, layers, completions, scored))


def test_every_operator_is_checked():
    registered = {s.name for s in torch._C._jit_get_all_schemas() if s.name.startswith("irecgan_ext::")}
    public = ("catalogue_sample", "gumbel_topk", "linear_gumbel_topk", "linear_log_prob", "rollout")
    names = {*public, *(f"check_{name}" for name in public), "linear_log_prob_backward"}
    assert registered == {f"irecgan_ext::{name}" for name in names}


def test_fake_outputs_have_the_shapes_and_dtypes_of_real_ones():
    cases = [(OPERATORS.gumbel_topk, topk_arguments()), (OPERATORS.rollout, rollout_arguments("lstm", "binary", 2, 3))]
    for operator, arguments in cases:
        real = operator(*arguments)
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = operator(*torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, arguments))
        assert [(tuple(f.shape), f.dtype, f.device) for f in fake] == [
            (tuple(r.shape), r.dtype, r.device) for r in real
        ]


def test_meta_tensors_have_no_samples_but_shapes():
    logits = torch.empty(4, 70, device="meta", dtype=torch.float64)
    values, indices = ops.gumbel_topk(logits, 3, seed=1)
    assert values.shape == indices.shape == (4, 3)
    assert (values.dtype, indices.dtype) == (torch.float64, torch.int64) and values.is_meta


def test_build_info():
    info = irecgan_ext.build_info()
    keys = "version commit compiler flags cpu_capability cuda torch_built_with torch"
    assert set(info) == set(keys.split())
    assert info["version"] == irecgan_ext.__version__
    assert info["torch"] == torch.__version__
    assert info["cpu_capability"] in ("baseline", "avx2", "avx512")
    assert info["cuda"] == "none" or re.fullmatch(r"[\w.+;, ]+", info["cuda"])
    assert all(isinstance(value, str) and value for value in info.values())


def test_draw_seed():
    seeds = [ops.draw_seed(torch.Generator().manual_seed(n)) for n in range(64)]
    assert all(s.dtype == torch.int64 and s.shape == () for s in seeds)
    values = [int(s) for s in seeds]
    assert len(set(values)) == 64 and min(values) < 0 < max(values) and max(map(abs, values)) > 2**61
    assert int(ops.draw_seed(seed=-3)) == -3
    given = torch.tensor(8)
    assert ops.draw_seed(seed=given) is given
