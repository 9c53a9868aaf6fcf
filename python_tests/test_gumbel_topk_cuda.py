"""The CUDA op against the CPU op. On a machine without a GPU the kernels run in test_simt.py instead."""

import pytest
import simt
import torch
from laws import chi_squared_p

from irecgan_ext import ops

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device; test_simt.py runs the kernels on the host"
    ),
]


def random_logits(rows, items, dtype=torch.float32):
    return 2 * torch.randn(rows, items, generator=torch.Generator().manual_seed(items), dtype=dtype)


def assert_same_draws(drawn, expected):
    simt.assert_same_draws(drawn, expected, 5e-6 if drawn[0].dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("items", [1, 63, 64, 65, 127, 1000, 4099, 40_000])
def test_draws_of_the_cpu_op(items, dtype):
    logits = random_logits(17, items, dtype)
    for k in sorted({min(k, items) for k in (1, 10, 64)}):
        drawn = ops.gumbel_topk(logits.cuda(), k, seed=k, rows=torch.arange(17, device="cuda"))
        assert drawn[0].is_cuda and drawn[1].is_cuda
        assert_same_draws(drawn, ops.gumbel_topk(logits, k, seed=k))


def test_first_draw_follows_the_softmax():
    logits = random_logits(1, 1_000)
    _, indices = ops.gumbel_topk(logits.cuda().expand(100_000, -1), 1, seed=4)
    assert chi_squared_p(torch.bincount(indices[:, 0].cpu(), minlength=1_000), logits[0].double().softmax(0)) > 1e-3


def test_a_seed_on_the_device_and_strided_logits():
    logits = random_logits(300, 40).cuda().T
    expected = ops.gumbel_topk(logits.contiguous(), 5, seed=9)
    drawn = ops.gumbel_topk(logits, 5, seed=torch.tensor(9, device="cuda"))
    assert torch.equal(drawn[0], expected[0]) and torch.equal(drawn[1], expected[1])


def test_rows_that_cannot_be_drawn():
    logits = torch.zeros(3, 130, device="cuda")
    logits[0, 129] = torch.nan
    logits[1] = -torch.inf
    logits[1, 5] = 0.0
    values, indices = ops.gumbel_topk(logits, 3, seed=1)
    assert bool(values[0].isnan().all()) and indices[:2].tolist() == [[-1] * 3, [5, -1, -1]]
    assert bool(values[2].isfinite().all())


def test_the_current_stream():
    stream = torch.cuda.Stream()
    expected = ops.gumbel_topk(random_logits(64, 40_000), 10, seed=2)
    with torch.cuda.stream(stream):
        logits = torch.zeros(64, 40_000, device="cuda")
        torch.cuda._sleep(50_000_000)
        logits.copy_(random_logits(64, 40_000).cuda())  # still under way when the op is called
        drawn = ops.gumbel_topk(logits, 10, seed=2)
    stream.synchronize()
    assert_same_draws(drawn, expected)


def test_a_captured_graph_replays_with_fresh_noise():
    logits = random_logits(8, 1_000).cuda()
    seed, rows = torch.tensor(1, device="cuda"), torch.arange(8, device="cuda")
    ops.gumbel_topk(logits, 4, seed=seed, rows=rows)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = ops.gumbel_topk(logits, 4, seed=seed, rows=rows)
    for value in (1, 77):
        seed.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert_same_draws(drawn, ops.gumbel_topk(logits.cpu(), 4, seed=value))


def test_tensors_on_the_wrong_device():
    logits = torch.zeros(2, 5, device="cuda")
    with pytest.raises(ValueError, match="^rows must be on cuda:0, got cpu$"):
        ops.gumbel_topk(logits, 2, seed=1, rows=torch.arange(2))
    with pytest.raises(ValueError, match="^logits must be on a CUDA device, as another argument is, got cpu$"):
        ops.gumbel_topk(logits.cpu(), 2, seed=torch.tensor(1, device="cuda"))
