"""ops.linear_gumbel_topk on a CUDA device against the CPU op. Without a GPU test_simt_linear_gumbel_topk.py runs the kernels."""

import pytest
import torch
from laws import chi_squared_p
from linear_problems import cpu_draws, layer, on_gpu
from simt import assert_same_draws
from torch.nn import functional

from irecgan_ext import ops
from irecgan_ext.types import PAD

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="no CUDA device; test_simt_linear_gumbel_topk.py runs the kernels on the host",
    ),
]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def assert_same(drawn: ops.LinearDraws, expected: ops.LinearDraws) -> None:
    assert all(x.is_cuda for x in drawn)
    assert drawn.values.dtype == drawn.logsumexp.dtype == torch.float32
    assert_same_draws(drawn, expected, tolerance=3e-5)
    torch.testing.assert_close(drawn.logsumexp.cpu(), expected.logsumexp, rtol=1e-6, atol=1e-5)
    same = (drawn.indices.cpu() == expected.indices).all(1) if len(expected.log_prob) else slice(0, 0)
    torch.testing.assert_close(drawn.log_prob.cpu()[same], expected.log_prob[same], rtol=1e-5, atol=1e-4)


@DTYPES
@pytest.mark.parametrize("items", [1, 63, 64, 65, 127, 1000, 4099, 40_000])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 17), (127, 64), (257, 130)])
def test_draws_of_the_cpu_op(rows, width, items, dtype):
    arguments = layer(rows, width, items, dtype, bias=rows != 5)
    for k in sorted({min(k, items) for k in (1, 10)}):
        options = {"seed": k, "step": 3, "log_prob": k > 1}
        assert_same(ops.linear_gumbel_topk(*on_gpu(*arguments), k, **options), cpu_draws(*arguments, k, **options))


@DTYPES
def test_exclude_and_mask(dtype):
    arguments = layer(150, 32, 1_000, dtype)
    generator = torch.Generator().manual_seed(2)
    exclude = torch.randint(PAD, 1_000, (150, 40), generator=generator)
    for mask in (None, torch.rand(1_000, generator=generator) < 0.5, torch.rand(150, 1_000, generator=generator) < 0.5):
        gpu = dict(zip(("exclude", "mask"), on_gpu(exclude, mask)))
        drawn = ops.linear_gumbel_topk(*on_gpu(*arguments), 8, seed=3, **gpu)
        assert_same(drawn, cpu_draws(*arguments, 8, seed=3, exclude=exclude, mask=mask))


def test_first_draw_follows_the_softmax():
    hidden, weight, bias = layer(1, 24, 700)
    drawn = ops.linear_gumbel_topk(hidden.cuda().expand(100_000, -1), *on_gpu(weight, bias), 1, seed=4)
    law = functional.linear(hidden.double(), weight.double(), bias.double())[0].softmax(0)
    assert chi_squared_p(torch.bincount(drawn.indices[:, 0].cpu(), minlength=700), law) > 1e-3


@DTYPES
def test_the_reference_draws_the_same(dtype):
    arguments = on_gpu(*layer(40, 16, 300, dtype))
    seed = torch.tensor(5, device="cuda")
    reference = ops.linear_gumbel_topk(*arguments, 6, seed=seed, impl="reference")
    assert_same_draws(ops.linear_gumbel_topk(*arguments, 6, seed=seed), reference, tolerance=1e-2)


def test_strided_inputs_and_no_rows():
    hidden, weight, bias = on_gpu(*layer(40, 24, 90))
    expected = ops.linear_gumbel_topk(hidden, weight, bias, 3, seed=1)
    drawn = ops.linear_gumbel_topk(hidden.T.contiguous().T, weight.T.contiguous().T, bias, 3, seed=1)
    assert all(torch.equal(x, y) for x, y in zip(drawn, expected))
    assert ops.linear_gumbel_topk(hidden[:0], weight, bias, 3).indices.shape == (0, 3)


def test_rows_that_cannot_be_drawn():
    hidden, weight, bias = torch.ones(2, 4), torch.ones(130, 4), torch.full((130,), -torch.inf)
    hidden[0, 1], bias[5] = torch.nan, 0.0
    gpu = on_gpu(hidden, weight, bias)
    values, indices, logsumexp, log_prob = ops.linear_gumbel_topk(*gpu, 3, seed=1, log_prob=True)
    assert bool(log_prob.isnan().all())
    assert bool(values[0].isnan().all()) and indices.tolist() == [[-1] * 3, [5, -1, -1]]
    assert bool(logsumexp[0].isnan()) and abs(logsumexp[1].item() - 4.0) < 1e-5


def test_exclusions_outside_the_catalogue_name_nothing():
    arguments = layer(2, 8, 70)
    exclude = torch.tensor([[5, -7, 70], [10**12, 69, -(10**12)]])
    drawn = ops.linear_gumbel_topk(*on_gpu(*arguments), 69, seed=3, exclude=exclude.cuda())
    assert_same(drawn, cpu_draws(*arguments, 69, seed=3, exclude=torch.tensor([[5], [69]])))


def test_two_streams():
    """Each stream's call sees what was written on that stream before it."""
    problems = [layer(64, 128, 20_000), layer(65, 128, 20_000)]
    expected = [cpu_draws(*problem, 10, seed=2) for problem in problems]
    streams, drawn = [torch.cuda.Stream(), torch.cuda.Stream()], []
    for stream, problem in zip(streams, problems):
        with torch.cuda.stream(stream):
            hidden, weight, bias = (torch.zeros_like(t, device="cuda") for t in problem)
            torch.cuda._sleep(50_000_000)
            for to, source in zip((hidden, weight, bias), problem):
                to.copy_(source.cuda())  # still under way when the op is called
            drawn.append(ops.linear_gumbel_topk(hidden, weight, bias, 10, seed=2))
    for stream, mine, theirs in zip(streams, drawn, expected):
        stream.synchronize()
        assert_same(mine, theirs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_the_second_device():
    arguments = layer(30, 16, 500)
    drawn = ops.linear_gumbel_topk(*(t.to("cuda:1") for t in arguments), 5, seed=2)
    assert drawn.indices.device == torch.device("cuda:1")
    assert_same(drawn, cpu_draws(*arguments, 5, seed=2))


@DTYPES
def test_a_captured_graph_replays_with_fresh_noise(dtype):
    arguments = layer(8, 32, 1_000, dtype)
    gpu = on_gpu(*arguments)
    options = {
        "seed": torch.tensor(1, device="cuda"),
        "rows": torch.arange(8, device="cuda"),
        "exclude": torch.full((8, 1), 3, device="cuda"),
    }
    ops.linear_gumbel_topk(*gpu, 4, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = ops.linear_gumbel_topk(*gpu, 4, **options)
    for value in (1, 77):
        options["seed"].fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert_same(drawn, cpu_draws(*arguments, 4, seed=value, exclude=torch.full((8, 1), 3)))


def test_no_logits_in_memory():
    hidden, weight, bias = on_gpu(*layer(1_024, 64, 40_000))
    ops.linear_gumbel_topk(hidden, weight, bias, 10, seed=1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ops.linear_gumbel_topk(hidden, weight, bias, 10, seed=1)
    assert torch.cuda.max_memory_allocated() - before < 4 * 1_024 * 40_000 / 9


def test_bad_arguments():
    hidden, weight, bias = on_gpu(*layer(4, 8, 30))
    with pytest.raises(ValueError, match=r"^hidden must have dtype float32 or bfloat16, got float64$"):
        ops.linear_gumbel_topk(hidden.double(), weight, bias, 2)
    with pytest.raises(ValueError, match=r"^weight must have dtype bfloat16, got float32$"):
        ops.linear_gumbel_topk(hidden.bfloat16(), weight, bias, 2)
    with pytest.raises(ValueError, match=r"^bias must be on cuda:0, got cpu$"):
        ops.linear_gumbel_topk(hidden, weight, bias.cpu(), 2)
    with pytest.raises(ValueError, match=r"^hidden must be on a CUDA device, as another argument is, got cpu$"):
        ops.linear_gumbel_topk(hidden.cpu(), weight, bias, 2)


@DTYPES
def test_opcheck(dtype):
    hidden, weight, bias = on_gpu(*layer(3, 8, 70, dtype))
    exclude = torch.tensor([[1], [-1], [3]], device="cuda")
    args = (hidden, weight, bias, 4, torch.tensor(5), torch.arange(3, device="cuda"), 0, exclude, None, True)
    torch.library.opcheck(torch.ops.irecgan_ext.linear_gumbel_topk.default, args)
