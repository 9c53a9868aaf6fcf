"""The native Gumbel top-k: exact laws, agreement with its reference, invariances and errors."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from laws import chi_squared_p, count_draws, kolmogorov_p, likely_p, plackett_luce, poisson_tail
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.reference import ARRIVAL, PICK, Stream, exponential, uniform


def random_logits(rows: int, items: int, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(rows, items, generator=torch.Generator().manual_seed(items), dtype=dtype)


def sparse(items: int, places: dict[int, float]) -> Tensor:
    logits = torch.full((items,), -torch.inf)
    logits[list(places)] = torch.tensor(list(places.values()))
    return logits


LAWS = {
    "k = 1": (torch.tensor([0.5, -1.0, 1.5, 0.0, 0.2]), 1),
    "k = 2": (torch.tensor([0.5, -1.0, 1.5, 0.0, 0.2]), 2),
    "k = 3": (torch.tensor([0.5, -1.0, 1.5, 0.0, 0.2]), 3),
    "an excluded item": (torch.tensor([0.5, -torch.inf, 1.5, 0.0, 0.2]), 3),
    "a heavy item": (torch.tensor([9.0, 0.0, 1.0, -1.0]), 3),
    "the 65th item": (sparse(65, {0: 0.3, 63: -0.3, 64: 0.8}), 3),
    "the 129th item": (sparse(129, {5: 0.1, 64: 1.0, 127: -0.5, 128: 0.6}), 3),
    "a heavy item ahead of another block": (sparse(129, {5: 40.0, 6: 0.0, 7: 1.0, 128: 0.5}), 3),
    "more blocks than draws": (sparse(700, {0: 0.0, 70: 1.0, 200: 0.5, 450: -0.5, 699: 0.2}), 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("logits", "k"), LAWS.values(), ids=LAWS.keys())
def test_draws_follow_plackett_luce(logits, k, dtype):
    draws, probabilities = plackett_luce(logits, k)
    _, indices = ops.gumbel_topk(logits.to(dtype).expand(20_000, -1), k, seed=11)
    assert likely_p(count_draws(indices, draws), probabilities) > 1e-3


def test_first_draw_of_a_thousand_items():
    logits = random_logits(1, 1_000, scale=1.0)
    _, indices = ops.gumbel_topk(logits.expand(100_000, -1), 1, seed=4)
    assert chi_squared_p(torch.bincount(indices[:, 0], minlength=1_000), logits[0].double().softmax(0)) > 1e-3


def test_values_are_perturbed_logits_at_catalogue_scale():
    """The largest is Gumbel around the log-sum-exp; each arrival exp(-value) comes Exp(1) / (weight left) later."""
    rows, items = 2_000, 5_000
    logits = random_logits(1, items, torch.float64)
    values, indices = ops.gumbel_topk(logits.expand(rows, -1), 4, seed=3)
    gumbel = values[:, 0] - logits.logsumexp(1)
    assert abs(gumbel.mean().item() - 0.5772157) < 4 * math.pi / math.sqrt(6 * rows)
    assert kolmogorov_p((-(-gumbel).exp()).exp()) > 1e-3
    left = logits.exp().sum(1).expand(rows).clone()
    before = torch.zeros(rows, dtype=torch.float64)
    for j in range(4):
        arrival = (-values[:, j]).exp()
        assert kolmogorov_p(-torch.expm1(-(arrival - before) * left)) > 1e-3
        left = left - logits[0, indices[:, j]].exp()
        before = arrival


def test_a_million_items_of_probability_1e_8_are_drawn_as_often_as_they_should_be():
    """20 of 2,000 first draws fall among a million items of 1e-8. Noise from 24-bit uniforms draws next to none of them."""
    rows, items, weight = 2_000, 1_000_000, 1e-8
    logits = torch.full((1, items), math.log(weight))
    logits[0, 0] = math.log1p(-items * weight)
    batch = logits.expand(20, -1).contiguous()
    drawn = 0
    for first in range(0, rows, len(batch)):
        _, indices = ops.gumbel_topk(batch, 1, seed=5, rows=torch.arange(first, first + len(batch)))
        drawn += int((indices > 0).sum())
    assert poisson_tail(drawn, rows * items * weight) > 1e-3

    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(2, rows, generator=generator, dtype=torch.float64)
    # The smallest of a million 24-bit uniforms, by inversion of its law.
    smallest = torch.ceil(-torch.expm1(torch.log1p(-uniforms[0]) / items) * 2**24) * 2.0**-24
    starved = int((-torch.log1p(-smallest) / weight < -torch.log1p(-uniforms[1])).sum())
    assert poisson_tail(starved, rows * items * weight) < 1e-3


def test_arrivals_are_resolved_beyond_24_bits():
    """Two items whose arrivals differ by 1e-9 of themselves come in the right order."""
    rows, seed = torch.arange(4_000), torch.tensor(21)
    zeros = torch.zeros_like(rows)
    words = Stream(seed, rows, zeros, zeros, zeros).words(ARRIVAL, zeros)
    first, second = exponential(words[:, 0], words[:, 1]), exponential(words[:, 2], words[:, 3])
    later = torch.where(rows % 2 == 0, 1e-9, -1e-9)
    logits = torch.full((len(rows), 65), -torch.inf, dtype=torch.float64)
    logits[:, 0] = 0.0
    logits[:, 64] = (second / first).log() - later
    _, indices = ops.gumbel_topk(logits, 1, seed=seed)
    assert torch.equal(indices[:, 0], torch.where(later > 0, 0, 64))

    coarse = [-torch.log1p(-((-torch.expm1(-x)) * 2**24).ceil() / 2**24) for x in (first, second)]
    wins = coarse[1] / coarse[0] < (second / first) * (1 - later)
    assert (wins != (later < 0)).double().mean() > 0.2


def test_picks_are_resolved_beyond_24_bits():
    """An item of probability 2e-12 is drawn when the uniform falls on it."""
    rows, seed, half = torch.arange(4_000), torch.tensor(22), 1e-12
    zeros = torch.zeros_like(rows)
    words = Stream(seed, rows, zeros, zeros, zeros).words(PICK, zeros)
    u = uniform(words[:, 0], words[:, 1])
    probabilities = torch.stack([u - half, torch.full_like(u, 2 * half), 1 - u - half], 1)
    assert bool((probabilities > 0).all())
    _, indices = ops.gumbel_topk(probabilities.log(), 1, seed=seed)
    assert bool((indices == 1).all())
    coarse = (u * 2**24).floor() / 2**24
    assert ((coarse - u).abs() < half).double().mean() < 1e-3


SIZES = [1, 2, 63, 64, 65, 127, 128, 129, 1000, 4097]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("items", SIZES)
def test_agrees_with_the_reference(items, dtype):
    tolerance = 5e-6 if dtype == torch.float32 else 1e-12
    logits = random_logits(7 if items < 4097 else 2, items, dtype)
    for k in sorted({min(k, items) for k in (1, 2, 7, 13, 67, items if items < 4097 else 251)}):
        values, indices = ops.gumbel_topk(logits, k, seed=k)
        expected, expected_indices = ops.gumbel_topk(logits, k, seed=k, impl="reference")
        assert values.dtype == dtype and indices.dtype == torch.int64
        torch.testing.assert_close(values, expected, rtol=0, atol=tolerance)
        # Arrivals closer than the arithmetic may change places.
        gaps = torch.nn.functional.pad(-expected.diff(dim=1), (1, 1), value=torch.inf)
        tied = torch.minimum(gaps[:, 1:], gaps[:, :-1]) < tolerance
        assert bool(((indices == expected_indices) | tied).all())
        assert tied.double().mean() < 0.01
        if k == items:
            assert torch.equal(indices.sort(1).values, torch.arange(items).expand_as(indices))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0, 64, 100])
def test_logits_that_underflow_keep_their_order(dtype, shift):
    """Each item is further from the next than any noise, so the order is theirs and the values are close to them."""
    logits = torch.full((50, 230), -torch.inf, dtype=dtype)
    places = [0, 1 + shift, 2, 3 + shift]
    logits[:, places] = torch.tensor([0.0, -200.0, -300.0, -1e30], dtype=dtype)
    values, indices = ops.gumbel_topk(logits, 4, seed=8)
    assert torch.equal(indices, torch.tensor(places).expand(50, -1))
    expected, _ = ops.gumbel_topk(logits, 4, seed=8, impl="reference")
    torch.testing.assert_close(values, expected)
    assert bool(((values[:, :3] - logits[:, places[:3]]).abs() < 60).all())


def test_large_logits_of_either_sign():
    for offset in (-1e4, 1e4, 1e30):
        logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64).expand(40, -1) + offset
        values, indices = ops.gumbel_topk(logits, 3, seed=2)
        expected, expected_indices = ops.gumbel_topk(logits, 3, seed=2, impl="reference")
        assert torch.equal(indices, expected_indices) and bool(values.isfinite().all())
        torch.testing.assert_close(values, expected)


def test_strided_logits():
    wide = random_logits(129, 40)
    for logits in (wide.T, wide.T[::3], wide[:, ::2], wide[:1].expand(9, -1), wide[3:7, 5:38]):
        values, indices = ops.gumbel_topk(logits, 5, seed=1)
        dense = ops.gumbel_topk(logits.contiguous(), 5, seed=1)
        assert torch.equal(values, dense[0]) and torch.equal(indices, dense[1])
    rows = torch.arange(80)[::2]
    assert torch.equal(
        ops.gumbel_topk(wide.T, 5, seed=1, rows=rows)[1],
        ops.gumbel_topk(wide.T, 5, seed=1, rows=rows.contiguous())[1],
    )


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_no_rows(impl):
    values, indices = ops.gumbel_topk(torch.zeros(0, 70), 2, impl=impl)
    assert values.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_no_bit(dtype):
    before = torch.get_num_threads()
    logits = random_logits(400, 300, dtype)
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(ops.gumbel_topk(logits, 9, seed=6))
    finally:
        torch.set_num_threads(before)
    for values, indices in results[1:]:
        assert torch.equal(values, results[0][0]) and torch.equal(indices, results[0][1])


def test_noise_is_keyed_by_seed_row_and_step():
    logits = random_logits(50, 130)
    values, indices = ops.gumbel_topk(logits, 4, seed=-7)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    parts = [ops.gumbel_topk(logits[rows], 4, seed=-7, rows=rows) for rows in order.split([1, 17, 32])]
    assert torch.equal(torch.cat([p[0] for p in parts]), values[order])
    assert torch.equal(torch.cat([p[1] for p in parts]), indices[order])
    part = torch.tensor([49, 3])
    assert torch.equal(ops.gumbel_topk(logits[part], 4, seed=-7, rows=part)[1], indices[part])
    others = [dict(seed=7), dict(seed=-7, step=1), dict(seed=-7, step=65_535)]
    others += [dict(seed=-7, rows=torch.arange(50) + offset) for offset in (50, 2**32, 2**40 - 50)]
    seen = [values] + [ops.gumbel_topk(logits, 4, **other)[0] for other in others]
    assert len({tuple(v.flatten().tolist()) for v in seen}) == len(seen)
    for other in others:
        expected = ops.gumbel_topk(logits, 4, impl="reference", **other)[1]
        assert torch.equal(ops.gumbel_topk(logits, 4, **other)[1], expected)


def test_where_the_seed_comes_from():
    logits = random_logits(20, 50)

    def draw(**options):
        return ops.gumbel_topk(logits, 3, **options)[0]

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first) and torch.equal(draw(), second) and not torch.equal(first, second)
    generator = torch.Generator().manual_seed(5)
    state = torch.get_rng_state()
    drawn = draw(generator=generator)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert torch.equal(draw(generator=generator.manual_seed(5)), drawn)
    assert torch.equal(draw(seed=torch.tensor(9)), draw(seed=9))
    assert torch.equal(draw(seed=torch.tensor([9])), draw(seed=9))
    assert not torch.equal(draw(seed=9), draw(seed=9 + 2**32))
    with pytest.raises(ValueError, match="^generator must be None where seed is given$"):
        draw(generator=generator, seed=1)


def test_samples_carry_no_gradient_and_leave_the_logits_alone():
    logits = random_logits(5, 70).requires_grad_()
    before = logits.detach().clone()
    for impl in ("native", "reference"):
        values, _ = ops.gumbel_topk(logits, 3, impl=impl)
        assert not values.requires_grad
    assert torch.equal(logits, before)


ZEROS = torch.zeros(2, 5)
ERRORS = [
    (dict(logits=torch.zeros(5)), "logits must have 2 dimensions [R, C], got [5]"),
    (dict(logits=torch.zeros(())), "logits must have 2 dimensions [R, C], got []"),
    (dict(logits=ZEROS.half()), "logits must have dtype float32 or float64, got float16"),
    (dict(logits=ZEROS.long()), "logits must have dtype float32 or float64, got int64"),
    (
        dict(logits=torch.zeros(1, 1).expand(1, 2**30 + 1)),
        f"logits must have at most 2^30 items per row, got {2**30 + 1}",
    ),
    (dict(k=6), "k must be in 1..C (C = 5), got 6"),
    (dict(k=0), "k must be in 1..C (C = 5), got 0"),
    (dict(logits=torch.zeros(2, 0)), "k must be in 1..C (C = 0), got 2"),
    (dict(seed=torch.tensor(1.0)), "seed must have dtype int64, got float32"),
    (dict(seed=torch.tensor([1, 2])), "seed must hold one element, got [2]"),
    (dict(rows=torch.arange(2, dtype=torch.int32)), "rows must have dtype int64, got int32"),
    (dict(rows=torch.arange(3)), "rows must have shape [2], got [3]"),
    (dict(rows=torch.tensor([0, -1])), "rows[1] must be in 0..2^40 - 1, got -1"),
    (dict(rows=torch.tensor([2**40, 0])), f"rows[0] must be in 0..2^40 - 1, got {2**40}"),
    (dict(step=-1), "step must be in 0..65535, got -1"),
    (dict(step=65_536), "step must be in 0..65535, got 65536"),
]


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_broken_rules(change, message, impl):
    with pytest.raises(ValueError) as error:
        ops.gumbel_topk(**{"logits": ZEROS, "k": 2, "seed": 1, "impl": impl, **change})
    assert str(error.value) == message


@pytest.mark.parametrize("place", [0, 3, 68])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_that_are_no_logits(value, place, dtype):
    for fill in (0.0, -math.inf):
        logits = torch.full((3, 70), fill, dtype=dtype)
        logits[:, 1] = 0.0
        logits[2:, place] = value
        with pytest.raises(ValueError, match=r"^logits\[2\] must hold no NaN and no \+inf$"):
            ops.gumbel_topk(logits[[0, 0, 2]], 1)


def test_too_few_finite_logits():
    logits = torch.zeros(3, 130)
    logits[1] = sparse(130, {5: 0.0, 128: 1.0})
    ops.gumbel_topk(logits, 2)
    with pytest.raises(ValueError) as error:
        ops.gumbel_topk(logits, 3)
    assert str(error.value) == "logits[1] must hold at least k = 3 finite logits, got 2"
    with pytest.raises(ValueError, match="at least k = 1 finite logits, got 0"):
        ops.gumbel_topk(torch.full((1, 3), -torch.inf), 1)


def test_unknown_implementation():
    with pytest.raises(ValueError, match="^impl must be 'native' or 'reference', got 'fast'$"):
        ops.gumbel_topk(ZEROS, 1, impl="fast")


CAPABILITY_SCRIPT = """
import json, torch
from irecgan_ext import ops
from settings import Setting
logits = 2 * torch.randn(60, 333, generator=torch.Generator().manual_seed(1))
drawn = [ops.gumbel_topk(x, 9, seed=4)[1].tolist() for x in (logits, logits.double())]
clicks = [
    Setting(cell, "binary", items, layers=2).native(torch.arange(30), 2).clicks.tolist()
    for cell in ("gru", "lstm")
    for items in (7, 13)
]
print(json.dumps([ops.build_info()["cpu_capability"], drawn, clicks]))
"""


def run_with_capability(name: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "IRECGAN_CPU_CAPABILITY": name, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", CAPABILITY_SCRIPT], env=environment, capture_output=True, text=True)


def test_instruction_sets_draw_the_same():
    outputs = {}
    for name in ("baseline", "avx2", "avx512"):
        done = run_with_capability(name)
        if "IRECGAN_CPU_CAPABILITY must be one of" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        outputs[name], *drawn = json.loads(done.stdout)
        assert outputs[name] == name
        outputs[name] = drawn
    if len(outputs) < 2:
        pytest.skip(f"this processor runs {', '.join(outputs)} alone")
    assert all(drawn == outputs["baseline"] for drawn in outputs.values())


def test_an_unknown_instruction_set():
    done = run_with_capability("sse9")
    assert done.returncode != 0
    assert "IRECGAN_CPU_CAPABILITY must be one of " in done.stderr and "got sse9" in done.stderr
