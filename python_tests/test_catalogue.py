"""A prepared catalogue: the same draws as the reference, the exact law, and no draws from weights that have moved."""

from __future__ import annotations

import pytest
import torch
from laws import chi_squared_p, kolmogorov_p, likely_p, poisson_tail
from linear_problems import layer
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.catalogue import CatalogueIndex
from irecgan_ext.grouping import group_items, largest_variance
from irecgan_ext.reference.catalogue_sample import log_bounds


def tight(items: int, width: int = 8) -> tuple[Tensor, Tensor]:
    """Weights that differ little, so that the bounds are close."""
    _, weight, bias = layer(1, width, items, scale=0.3)
    return weight, bias


def test_draws_equal_the_reference():
    for items, width, rows in ((1, 1, 3), (64, 5, 7), (65, 17, 13), (1000, 33, 20), (4200, 16, 30)):
        for scale in (0.2, 3.0):
            hidden, weight, bias = layer(rows, width, items, bias=items != 65, scale=scale)
            index = CatalogueIndex(weight, bias, states=hidden + 0.1 if items in (64, 1000) else None)
            k = min(12, items)
            ours = index.sample(hidden, k, seed=4, step=3)
            theirs = index.sample(hidden, k, seed=4, step=3, impl="reference")
            same = (ours.indices == theirs.indices).all(1)
            assert float((~same).double().mean()) <= 0.02, (items, scale)
            torch.testing.assert_close(ours.values[same], theirs.values[same], rtol=1e-5, atol=2e-4)
            assert bool((ours.opened >= 1).all()) and bool((ours.opened <= index.blocks).all())


def repeated(index: CatalogueIndex, hidden: Tensor, n: int, k: int) -> ops.CatalogueDraws:
    return index.sample(hidden.expand(n, -1), k, seed=21)


def pooled_p(counts: Tensor, probabilities: Tensor) -> float:
    """`chi_squared_p`, the outcomes expected fewer than five times as one."""
    rare = probabilities * counts.sum() < 5
    parts = [torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts.double(), probabilities)]
    assert float(parts[0][-1]) == 0 or float(parts[1][-1]) > 0
    return chi_squared_p(*(part if float(parts[1][-1]) > 0 else part[:-1] for part in parts))


def assert_law(hidden: Tensor, weight: Tensor, bias: Tensor, n: int = 150_000) -> Tensor:
    """First two items, and first two values, of equal rows against their joint laws. Returns the blocks opened."""
    drawn = repeated(CatalogueIndex(weight, bias), hidden, n, 2)
    first, second = drawn.indices.unbind(1)
    logits = (hidden.double() @ weight.double().T + bias.double())[0]
    p = logits.softmax(0)
    joint = p[:, None] * p / (1 - p[:, None])
    joint.fill_diagonal_(0)
    assert pooled_p(torch.bincount(first, minlength=len(p)), p) > 1e-3
    assert pooled_p(torch.bincount(second, minlength=len(p)), joint.sum(0)) > 1e-3
    kinds = torch.nn.functional.one_hot(
        p.argsort(descending=True).argsort().clamp(max=19)
    ).double()  # likeliest, others
    coarse = kinds.T @ joint @ kinds
    kind = kinds.argmax(1)
    assert pooled_p(torch.bincount(kind[first] * 20 + kind[second], minlength=400), coarse.flatten()) > 1e-3
    # Arrivals are Exp(1) / W; the second one is Exp(1) / (what is left of W) after the first.
    times = (logits.logsumexp(0) - drawn.values.double()).exp()
    assert kolmogorov_p(-torch.expm1(-times[:, 0])) > 1e-3
    left = 1 - p[first]
    clear = left > 0.01  # otherwise float32 values are too coarse for their difference
    assert kolmogorov_p(-torch.expm1(-(times[:, 1] - times[:, 0]) * left)[clear]) > 1e-3
    return drawn.opened


def test_law_with_close_bounds():
    weight, bias = tight(1500)
    opened = assert_law(torch.ones(1, 8), weight, bias)
    assert float(opened.double().mean()) < 12  # of 24 blocks: the draws were made without a look at the others


def test_law_with_loose_bounds():
    """Bounds about exp(15) too large: nearly every candidate is thinned out."""
    hidden, weight, bias = layer(1, 12, 300, scale=2.0)
    index = CatalogueIndex(weight, bias)
    excess = log_bounds(hidden.double(), index._tensors).logsumexp(1) - (hidden @ weight.T + bias).logsumexp(1)
    assert float(excess) > 5
    assert_law(hidden, weight, bias)


def test_law_where_one_item_dominates():
    weight, bias = tight(400)
    bias[77] = 9.0
    assert_law(torch.ones(1, 8), weight, bias)


def test_law_with_typical_states():
    hidden, weight, bias = layer(1, 6, 200)
    index = CatalogueIndex(weight, bias, states=hidden + 0.2 * layer(50, 6, 1)[0])
    drawn = repeated(index, hidden, 60_000, 1)
    p = (hidden @ weight.T + bias).softmax(1)[0]
    assert likely_p(torch.bincount(drawn.indices[:, 0], minlength=200), p.double()) > 1e-3


def test_rare_items_are_drawn_as_often_as_they_should_be():
    weight, bias = tight(256)
    bias[200:] = -8.0
    hidden, n = torch.ones(1, 8), 400_000
    drawn = repeated(CatalogueIndex(weight, bias), hidden, n, 1).indices[:, 0]
    p = (hidden @ weight.T + bias).double().softmax(1)[0, 200:]
    assert float(p.max()) < 1e-5
    assert poisson_tail(int((drawn >= 200).sum()), n * float(p.sum())) > 1e-3


def test_values_fall_and_every_item_comes_once():
    hidden, weight, bias = layer(9, 5, 131)
    drawn = CatalogueIndex(weight, bias).sample(hidden, 131, seed=1)
    assert torch.equal(drawn.indices.sort(1).values, torch.arange(131).expand(9, -1))
    assert bool((drawn.values[:, 1:] <= drawn.values[:, :-1]).all())


def test_far_bounds_do_not_overflow():
    hidden, weight, bias = layer(40, 12, 700, scale=60.0)
    index = CatalogueIndex(weight, bias)
    ours, theirs = (index.sample(hidden, 5, seed=2, impl=impl) for impl in ("native", "reference"))
    assert float((ours.indices == theirs.indices).all(1).double().mean()) >= 0.95
    assert bool(ours.values.isfinite().all())


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("typical", [False, True])
def test_bounds_hold(scale, typical):
    hidden, weight, bias = layer(64, 10, 1000, scale=scale)
    # Along an item's own difference from its centroid the bounds are closest.
    hidden = torch.cat([hidden, weight[:64] / weight[:64].norm(dim=1, keepdim=True) * 3, 1e-3 * hidden])
    index = CatalogueIndex(weight, bias, states=hidden[:20] if typical else None)
    panels, biases = index._tensors[:2]
    weights = (torch.einsum("rh,bhi->rbi", hidden.double(), panels.double()) + biases).logsumexp(2)
    assert bool((log_bounds(hidden.double(), index._tensors) >= weights).all())


def test_exclusions_and_masks():
    hidden, weight, bias = layer(200, 9, 300, scale=0.5)
    generator = torch.Generator().manual_seed(2)
    exclude = torch.randint(-1, 300, (200, 120), generator=generator)
    mask = torch.rand(300, generator=generator) < 0.6
    index = CatalogueIndex(weight, bias, mask=mask)
    ours, theirs = (index.sample(hidden, 8, seed=3, exclude=exclude, impl=impl) for impl in ("native", "reference"))
    assert float((ours.indices == theirs.indices).all(1).double().mean()) >= 0.98
    assert not bool((ours.indices[:, :, None] == exclude[:, None]).any())
    assert bool(mask[ours.indices].all())
    logits = (hidden @ weight.T + bias).masked_fill(~mask, -torch.inf)
    padded = torch.nn.functional.pad(logits, (0, 1)).scatter(1, exclude % 301, -torch.inf)[:, :-1]
    exact = index.sample(hidden, 8, seed=3, exclude=exclude, logsumexp=True).logsumexp
    torch.testing.assert_close(exact, padded.logsumexp(1), rtol=1e-5, atol=1e-5)


def test_same_draws_for_any_split_thread_count_and_with_all_blocks():
    weight, bias = tight(3000, 20)
    hidden = layer(150, 20, 1)[0]
    index = CatalogueIndex(weight, bias)
    whole = index.sample(hidden, 5, seed=6)
    assert float(whole.opened.double().mean()) < index.blocks / 2
    rows = torch.arange(150)
    parts = [index.sample(hidden[a:b], 5, seed=6, rows=rows[a:b]) for a, b in ((0, 1), (1, 8), (8, 103), (103, 150))]
    every = index.sample(hidden, 5, seed=6, logsumexp=True)
    assert bool((every.opened == index.blocks).all())
    torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)
    other = index.sample(hidden, 5, seed=6)
    for at in range(2):
        assert torch.equal(whole[at], other[at]) and torch.equal(whole[at], every[at])
    for at in range(3):
        assert torch.equal(whole[at], torch.cat([part[at] for part in parts]))
    assert index.sample(hidden[:0], 5).indices.shape == (0, 5)


def test_changed_parameters_are_refused_until_rebuilt():
    head = torch.nn.Linear(6, 200)
    index = CatalogueIndex(head.weight, head.bias)
    hidden = torch.ones(3, 6)
    index.sample(hidden, 2, seed=1)
    optimiser = torch.optim.SGD(head.parameters(), 1.0)
    head(hidden)[:, 5].sum().backward()
    changes = (
        optimiser.step,
        lambda: head.bias.detach().add_(1.0),
        lambda: head.load_state_dict({name: 2 * value for name, value in head.state_dict().items()}),
        lambda: setattr(head.weight, "data", head.weight.detach().clone()),
    )
    for change in changes:
        change()
        assert not index.fresh
        with pytest.raises(ValueError, match=r"weight and bias must be those .* call rebuild\(\)"):
            index.sample(hidden, 2)
        index.rebuild(regroup=False)
        exact = index.sample(hidden, 2, seed=1, logsumexp=True).logsumexp
        torch.testing.assert_close(exact, head(hidden).logsumexp(1).detach())


def test_groups_are_a_permutation_of_near_items():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(32, 6, generator=generator)
    item = torch.randperm(2048, generator=generator)
    features = centres[item % 32] + 0.01 * torch.randn(2048, 6, generator=generator)
    order = group_items(features)
    assert torch.equal(order.sort().values, torch.arange(2048))
    kinds = (item[order] % 32).view(32, 64)
    assert bool((kinds == kinds[:, :1]).all())
    for size in (1, 63, 65, 130, 1000):
        assert torch.equal(group_items(features[:size]).sort().values, torch.arange(size))


def test_largest_variance_is_an_upper_bound():
    vectors = torch.randn(20, 64, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors[:10] *= torch.logspace(0, -4, 10, dtype=torch.float64)
    truth = torch.linalg.eigvalsh(vectors.transpose(1, 2) @ vectors)[:, -1]
    bound = largest_variance(vectors)
    assert bool((bound >= truth * (1 - 1e-12)).all()) and bool((bound <= truth * 64 ** (1 / 16)).all())
    assert bool((largest_variance(torch.zeros(2, 64, 3, dtype=torch.float64)) < 1e-200).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(4)}, r"weight must be a float32 tensor \[C, H\] on the CPU, got torch\.float32 \[4\]"),
        ({"weight": torch.full((30, 8), torch.nan)}, "weight must be finite, got nan"),
        ({"bias": torch.zeros(29)}, r"bias must be a float32 tensor \[30\], got torch\.float32 \[29\]"),
        ({"bias": torch.full((30,), torch.inf)}, r"bias must hold no NaN and no \+inf, got inf"),
        ({"bias": torch.full((30,), -torch.inf)}, "bias and mask must leave at least one item, got none"),
        ({"mask": torch.zeros(30)}, r"mask must be a bool tensor \[30\], got torch\.float32 \[30\]"),
        ({"states": torch.zeros(1, 8)}, r"states must have shape \[S, 8\], S >= 2, got \[1, 8\]"),
    ],
)
def test_what_no_index_can_be_made_of(change, message):
    _, weight, bias = layer(4, 8, 30)
    with pytest.raises(ValueError, match=message):
        CatalogueIndex(**({"weight": weight, "bias": bias} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, r"k must be in 1\.\.C \(C = 30\), got 0"),
        ({"k": 31}, r"k must be in 1\.\.C \(C = 30\), got 31"),
        ({"hidden": torch.zeros(4)}, r"hidden must have 2 dimensions \[R, H\], got \[4\]"),
        ({"hidden": torch.zeros(4, 7)}, r"catalogue\[0\] must have shape \[1, 7, 64\], got \[1, 8, 64\]"),
        ({"exclude": torch.tensor([[30]] * 4)}, r"exclude\[0\] must be in 0\.\.C - 1 \(C = 30\) or PAD, got 30"),
        ({"exclude": torch.arange(28).repeat(4, 1)}, r"hidden\[\d\] must hold at least k = 3 finite logits, got 2"),
        ({"exclude": torch.arange(30).repeat(4, 1)}, r"hidden\[\d\] must hold at least k = 3 finite logits, got 0"),
        ({"hidden": torch.full((4, 8), torch.nan)}, r"hidden\[\d\] must hold no NaN and no \+inf"),
        ({"hidden": torch.full((4, 8), torch.inf)}, r"hidden\[\d\] must hold no NaN and no \+inf"),
    ],
)
def test_bad_arguments(change, message):
    hidden, weight, bias = layer(4, 8, 30)
    with pytest.raises(ValueError, match=message):
        CatalogueIndex(weight, bias).sample(**({"hidden": hidden, "k": 3, "seed": 1} | change))


def test_opcheck():
    hidden, weight, bias = layer(3, 8, 70)
    for states in (None, hidden):
        tensors = CatalogueIndex(weight, bias, states=states)._tensors
        args = (hidden, tensors, 4, torch.tensor(5), torch.arange(3), 0, torch.tensor([[1], [-1], [3]]))
        for logsumexp in (False, True):
            torch.library.opcheck(torch.ops.irecgan_ext.catalogue_sample.default, (*args, logsumexp))
