"""A catalogue prepared once per parameter version: exact draws from its softmax that look into few of its items."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.grouping import BLOCK, group_items, largest_variance

_CHUNK = 512  # blocks whose statistics are made at a time


class CatalogueIndex:
    """Weights and biases of a linear softmax over C items, packed in blocks of 64 similar ones, with a bound for each block.

        index = CatalogueIndex(agent.head.weight, agent.head.bias)
        draws = index.sample(hidden, k=10)

    `sample` has the law of `ops.linear_gumbel_topk(hidden, weight, bias, k)`, whatever the bounds. For block b with centroid
    c_b (the mean of its weights w_i under p_i = exp(bias_i) / sum exp(bias)),

        W_b = sum_i exp(h . w_i + bias_i) <= exp(h . c_b) sum_i exp(bias_i) G,   G = (q exp(a) + exp(-q a)) / (1 + q),

    a = |h| max_i |w_i - c_b|, q = (largest variance of w_i in any direction) / max_i |w_i - c_b|^2: the h . (w_i - c_b) have
    mean 0, are at most a and have at most the variance q a^2, and no such distribution has a larger mean of exp (Bennett,
    "Probability inequalities for the sum of independent random variables", JASA 1962). Where the bounds are close, which they
    are for trained policies, a row of k draws looks into little more than k blocks; where they are useless, into all of them,
    and costs what the plain op costs and the bounds beside it.

    The index holds a copy of the weights. It is made for the parameters as they are, and refuses to draw once they have
    changed; `rebuild` makes it anew. It notices assignments, optimisers and in-place operations (the tensors' version and
    storage), but not what is written through `.data` or NumPy, which PyTorch does not count.

    The kernels are for the CPU alone: a GPU reads all weights in less time than a dependent search takes.

    Args:
        weight: [C, H] float32. bias: [C] float32 or None; -inf excludes an item.
        mask: [C] bool, False for items that are never drawn.
        states: [S, H] float32 typical states h, S >= 2. With their mean m and covariance the bounds are made for h - m, measured
            by how far typical states spread in each direction: closer bounds where states are, the same law everywhere.

    Raises:
        ValueError: an argument breaks its rule, a weight is not finite, a bias is NaN or +inf, or no item is left.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, mask: Tensor | None = None, states: Tensor | None = None
    ) -> None:
        _check(weight, bias, mask, states)
        self.weight, self.bias, self.mask, self.states = weight, bias, mask, states
        self.rebuild()

    @property
    def blocks(self) -> int:
        """Number of blocks of at most 64 items."""
        return len(self._tensors[0])

    @property
    def fresh(self) -> bool:
        """Whether weight and bias are what they were when the index was made."""
        return self._seen == _versions(self.weight, self.bias)

    @torch.no_grad()
    def rebuild(self, *, regroup: bool = True) -> None:
        """Make the index for the present weights.

        Args:
            regroup: group the items anew. False keeps the groups, which is faster and serves well while weights move little.
        """
        seen = _versions(self.weight, self.bias)
        weight = self.weight.detach()
        bias = weight.new_zeros(len(weight)) if self.bias is None else self.bias.detach()
        bias = bias if self.mask is None else bias.masked_fill(~self.mask, -torch.inf)
        if not bool(weight.isfinite().all()):
            raise ValueError(f"weight must be finite, got {_first(weight[~weight.isfinite()])}")
        if bool((bias.isnan() | (bias == torch.inf)).any()):
            raise ValueError(f"bias must hold no NaN and no +inf, got {_first(bias[~(bias < torch.inf)])}")
        if not bool((bias > -torch.inf).any()):
            raise ValueError("bias and mask must leave at least one item, got none")
        if regroup:
            self._centre, self._metric = _typical(weight, self.states)
            kept = (bias > -torch.inf).nonzero()[:, 0]
            features = weight[kept]
            if self._metric is not None:
                features = features @ self._metric.inverse().T.float()
            self._groups = kept[group_items(features)]
        self._tensors = _pack(weight, bias, self._groups, self._centre, self._metric)
        self._seen = seen

    def sample(
        self,
        hidden: Tensor,
        k: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
        rows: Tensor | None = None,
        step: int = 0,
        exclude: Tensor | None = None,
        logsumexp: bool = False,
        impl: Literal["native", "reference"] = "native",
    ) -> ops.CatalogueDraws:
        """k draws without replacement from each row's softmax over the catalogue, in order.

        The draws are a function of index, seed, row and step: neither threads nor the split of a batch nor `logsumexp` change
        them. The same seed does not give the draws of `ops.linear_gumbel_topk`, whose blocks are others.

        Args:
            hidden: [R, H] float32.
            k: draws per row, 1..C, and at most the number of items that may be drawn.
            generator, seed, rows, step, impl: as in `ops.gumbel_topk`.
            exclude: [R, X] int64, items of each row that are not drawn, padded with PAD.
            logsumexp: return the exact log-sum-exp too, for which all blocks are looked into.

        Raises:
            ValueError: the parameters have changed since the index was made, or as `ops.linear_gumbel_topk` says.
        """
        if not self.fresh:
            raise ValueError(
                "weight and bias must be those that the index was made of, got changed ones: call rebuild()"
            )
        return ops.catalogue_sample(
            hidden,
            self._tensors,
            k,
            generator=generator,
            seed=seed,
            rows=rows,
            step=step,
            exclude=exclude,
            logsumexp=logsumexp,
            impl=impl,
        )


def _check(weight: Tensor, bias: Tensor | None, mask: Tensor | None, states: Tensor | None) -> None:
    if weight.dim() != 2 or weight.dtype != torch.float32 or weight.device.type != "cpu" or len(weight) < 1:
        raise ValueError(
            f"weight must be a float32 tensor [C, H] on the CPU, got {weight.dtype} {list(weight.shape)} on {weight.device}"
        )
    items, width = weight.shape
    if bias is not None and (list(bias.shape) != [items] or bias.dtype != torch.float32):
        raise ValueError(f"bias must be a float32 tensor [{items}], got {bias.dtype} {list(bias.shape)}")
    if mask is not None and (list(mask.shape) != [items] or mask.dtype != torch.bool):
        raise ValueError(f"mask must be a bool tensor [{items}], got {mask.dtype} {list(mask.shape)}")
    if states is not None and (states.dim() != 2 or states.shape[1] != width or len(states) < 2):
        raise ValueError(f"states must have shape [S, {width}], S >= 2, got {list(states.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.is_inference():
            raise ValueError(f"{name} must not be an inference tensor, whose changes PyTorch does not count")


def _versions(weight: Tensor, bias: Tensor | None) -> tuple[int, ...]:
    """What changes when the parameters do."""
    return tuple(x for t in (weight, bias) if t is not None for x in (t.data_ptr(), t._version))


def _first(values: Tensor) -> float:
    return float(values.flatten()[0])


def _typical(weight: Tensor, states: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Centre [H] and metric [H, H] float64 of the bounds: reach = |(h - centre) metric|, distance = |metric^-1 (w - c)|."""
    if states is None:
        return None, None
    centre = states.detach().mean(0)
    scatter = torch.cov(states.detach().double().T).reshape(weight.shape[1], weight.shape[1])
    values, vectors = torch.linalg.eigh(scatter)
    # A tenth of the mean variance in every direction: states that are not typical must not find useless bounds.
    floor = values.mean().clamp(min=1e-12) * 0.1
    return centre, vectors / (values.clamp(min=0) + floor).sqrt()


def _pack(weight: Tensor, bias: Tensor, groups: Tensor, centre: Tensor | None, metric: Tensor | None) -> list[Tensor]:
    """The tensors of `ops.catalogue_sample`. groups: [at most C] the items that may be drawn, block after block."""
    count = -(-len(groups) // BLOCK)
    items = groups.new_full((count * BLOCK,), -1)
    items[: len(groups)] = groups
    places = torch.full((len(weight),), -1)
    places[groups] = torch.arange(len(groups))
    items = items.view(count, BLOCK)
    panels = weight.new_empty(count, weight.shape[1], BLOCK)
    biases = torch.where(items >= 0, bias[items], -torch.inf)
    parts: list[tuple[Tensor, ...]] = []
    for first in range(0, count, _CHUNK):
        chosen = items[first : first + _CHUNK]
        members = weight[chosen] * (chosen >= 0)[:, :, None]  # [n, BLOCK, H]
        panels[first : first + _CHUNK] = members.transpose(1, 2)
        parts.append(_bound(members.double(), biases[first : first + _CHUNK].double(), chosen >= 0, centre, metric))
    centroids, log_weight, radius, spread = (torch.cat(part) for part in zip(*parts, strict=True))
    far = float(weight.norm(dim=1).max())
    level = max(float(log_weight.abs().max()), float(biases[biases > -torch.inf].abs().max()))
    level += 0.0 if centre is None else far * float(centre.norm())
    tensors = [panels, biases, items, places, *_pack_centroids(centroids, log_weight), radius, spread]
    tensors.append(torch.tensor([far, level]))
    return tensors if centre is None or metric is None else [*tensors, centre.contiguous(), metric.contiguous()]


def _bound(
    members: Tensor, biases: Tensor, present: Tensor, centre: Tensor | None, metric: Tensor | None
) -> tuple[Tensor, ...]:
    """What bounds the weights of n blocks.

    Args:
        members: [n, BLOCK, H] float64. biases: [n, BLOCK] float64, -inf where no item is. present: [n, BLOCK] bool.

    Returns:
        centroids [n, H], log_weight [n], radius [n] and spread [n], float32; the last two rounded up.
    """
    measure = biases if centre is None else biases + members @ centre.double()
    share = measure.softmax(1)
    centroids = (share[:, None] @ members)[:, 0].float()
    log_weight = measure.logsumexp(1)
    if centre is not None:
        log_weight = log_weight - centroids.double() @ centre.double()
    distances = (members - centroids.double()[:, None]) * present[:, :, None]
    if metric is not None:
        distances = distances @ metric.inverse().T
    radius = distances.norm(dim=2).amax(1)
    scaled = distances / radius.clamp(min=1e-300)[:, None, None] * share.sqrt()[:, :, None]
    spread = largest_variance(scaled).clamp(max=1.0)
    up = 1.0 + 1e-6
    return centroids, log_weight.float(), (radius * up).float(), (spread * up).float()


def _pack_centroids(centroids: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """[ceil(B / BLOCK), H, BLOCK] and [ceil(B / BLOCK), BLOCK], as the items are packed."""
    panels = -(-len(centroids) // BLOCK)
    padded = centroids.new_zeros(panels * BLOCK, centroids.shape[1])
    padded[: len(centroids)] = centroids
    levels = log_weight.new_full((panels * BLOCK,), -torch.inf)
    levels[: len(log_weight)] = log_weight
    return padded.view(panels, BLOCK, -1).transpose(1, 2).contiguous(), levels.view(panels, BLOCK)
