"""The native ops: one Python function each, with checks and kernels behind `torch.ops.irecgan_ext`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from irecgan_ext import _C, reference

Impl = Literal["native", "reference"]

_ops = torch.ops.irecgan_ext
_SCHEMA = 4
if _C.SCHEMA != _SCHEMA:
    raise ImportError(
        f"the compiled module has schema {_C.SCHEMA}, this checkout needs {_SCHEMA}: run pip install . again"
    )
if torch.version.cuda is not None and _C.build_info()["cuda"] != "none":  # its symbols are those of torch's CUDA builds
    torch.ops.load_library(Path(_C.__file__).with_name("_cuda.so"))
# Here, where the module has the ops that it speaks of.
import irecgan_ext.registration  # noqa: E402, F401

_REJECTED = re.compile(r"[\w .\[\]]+ must .*\Z")  # how the native checks word every rejection


def build_info() -> dict[str, Any]:
    """How the native code was built and what of it runs here.

    Returns:
        version, commit, compiler, flags, cpu_capability (instruction set in use: baseline, avx2 or avx512; the environment
        variable IRECGAN_CPU_CAPABILITY lowers it), cuda (architectures, or "none"), torch_built_with, torch (running).
    """
    return {**_C.build_info(), "torch": torch.__version__}


def draw_seed(generator: torch.Generator | None = None, seed: int | Tensor | None = None) -> Tensor:
    """The int64 seed tensor [] of one call: `seed` if given, else drawn from `generator` (default: torch's).

    Raises:
        ValueError: both are given.
    """
    if seed is None:
        device = "cpu" if generator is None else generator.device
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, generator=generator, device=device)
    if generator is not None:
        raise ValueError("generator must be None where seed is given")
    return seed if isinstance(seed, Tensor) else torch.tensor(seed, dtype=torch.int64)


def _check_impl(impl: str) -> None:
    if impl not in ("native", "reference"):
        raise ValueError(f"impl must be 'native' or 'reference', got {impl!r}")


def _call(op: Any, *args: Any, differentiable: bool = False) -> Any:
    """Call a native op; what its argument checks and kernels reject becomes a ValueError with their one line."""
    try:
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):  # samples have no gradient
            return op(*args)
    except RuntimeError as error:
        if _REJECTED.match(str(error)):
            raise ValueError(str(error)) from None
        raise


def gumbel_topk(
    logits: Tensor,
    k: int,
    *,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    rows: Tensor | None = None,
    step: int = 0,
    impl: Impl = "native",
) -> tuple[Tensor, Tensor]:
    """The k largest Gumbel-perturbed logits of each row: k draws without replacement from its softmax, in order.

    Equivalent in law to `(logits + gumbel).topk(k)` with exact i.i.d. standard Gumbel noise, and to k successive softmax
    draws without replacement (Plackett-Luce); computed as a race of exponential arrivals per block of 64 items.

    On a CUDA device the host does not wait for the result, so nothing in the data can raise: a row with NaN or +inf gets
    values NaN and indices -1, draws beyond a row's finite logits are (-inf, -1), and the range of `rows` is not checked.
    A seed on the device is read there; a CUDA graph replays with fresh noise if the seed tensor is rewritten.

    Args:
        logits: [R, C] float32 or float64; -inf marks an item that is never drawn.
        k: draws per row, 1..C.
        generator: source of the call's seed (default: torch's global generator).
        seed: int or int64 tensor [] (CPU, or the device of `logits`); instead of `generator`. The same seed gives the same
            draws whatever the number of threads, and on CPU and CUDA up to near-ties.
        rows: [R] int64 on the device of `logits`, global row ids in 0..2^40-1 that key the noise (default 0..R-1): a batch
            split in two draws the same.
        step: 0..65535, keys the noise too.
        impl: "native", or "reference" for the plain PyTorch twin, which draws the same samples up to near-ties.

    Returns:
        values [R, k], dtype of logits: the perturbed logits in descending order; indices [R, k] int64.

    Raises:
        ValueError: an argument breaks its rule, or (CPU) a logit is NaN or +inf or a row has fewer than k finite logits (the
            reference does not look at the logits: draws beyond the finite ones are (-inf, -1) there).
    """
    _check_impl(impl)
    seed_tensor = draw_seed(generator, seed)
    row_ids = torch.arange(logits.shape[:1].numel(), device=logits.device) if rows is None else rows
    if impl == "native":
        return _call(_ops.gumbel_topk, logits, k, seed_tensor, row_ids, step)
    _call(_ops.check_gumbel_topk, logits, k, seed_tensor, row_ids, step)
    return reference.gumbel_topk(logits, k, seed_tensor, row_ids, step)


class LinearDraws(NamedTuple):
    """What `linear_gumbel_topk` returns.

    Attributes:
        values: [R, k] float32, the perturbed logits in descending order.
        indices: [R, k] int64.
        logsumexp: [R] float32, of the logits of the items that may be drawn: log pi(i) = logit_i - logsumexp.
        log_prob: [R] float32, exact Plackett-Luce log-probability of each ordered slate; [0] unless asked for.
    """

    values: Tensor
    indices: Tensor
    logsumexp: Tensor
    log_prob: Tensor


def linear_gumbel_topk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    *,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    rows: Tensor | None = None,
    step: int = 0,
    exclude: Tensor | None = None,
    mask: Tensor | None = None,
    log_prob: bool = False,
    impl: Impl = "native",
) -> LinearDraws:
    """`gumbel_topk` of a linear layer's outputs, which are never in memory.

    Equivalent to `gumbel_topk(F.linear(hidden, weight, bias), k)`, sample for sample up to near-ties, and to
    `logsumexp` of the same logits. Each block of 64 items is projected in cache and leaves only the sum of its weights;
    the few blocks that win are projected again. Extra memory: 1/32 of the logits' bytes, and as much again with `exclude`
    or `mask`.

    On a CUDA device hidden, weight and bias may be bfloat16 (sums are in float32); float32 is multiplied in three tf32
    products, about as exact as float32 itself. Extra memory there: 3/32 of the float32 logits' bytes, and 1/32 with `exclude`
    or `mask`. As in `gumbel_topk`, nothing in the data can raise there: a row with NaN or +inf gets values and logsumexp NaN
    and indices -1, draws beyond a row's finite logits are (-inf, -1), the log-probability of such slates is NaN, and entries of
    `exclude` outside 0..C-1 name nothing.

    Args:
        hidden: [R, H] float32.
        weight: [C, H], bias: [C] or None, of hidden's dtype.
        k: draws per row, 1..C, and at most the number of items that may be drawn.
        generator, seed, rows, step, impl: as in `gumbel_topk`.
        exclude: [R, X] int64, items of each row that are not drawn (already shown, say), padded with PAD.
        mask: [C] or [R, C] bool, False for items that are not drawn.
        log_prob: return the slates' log-probabilities too, sum_j log (w_{a_j} / (w of all items but a_1..a_{j-1})). Costs the
            projection of the slate's blocks once more; nothing is subtracted, so it holds when one item dominates.

    Raises:
        ValueError: an argument breaks its rule, or (CPU) a logit is NaN or +inf, or a row has fewer than k finite logits (the
            reference does not look at the logits).
    """
    _check_impl(impl)
    row_ids = torch.arange(hidden.shape[:1].numel(), device=hidden.device) if rows is None else rows
    args = (hidden, weight, bias, k, draw_seed(generator, seed), row_ids, step, exclude, mask, log_prob)
    if impl == "native":
        return LinearDraws(*_call(_ops.linear_gumbel_topk, *args))
    _call(_ops.check_linear_gumbel_topk, *args)
    with torch.no_grad():
        return LinearDraws(*reference.linear_gumbel_topk(*args))


class CatalogueDraws(NamedTuple):
    """What `catalogue_sample` returns.

    Attributes:
        values: [R, k] float32, the perturbed logits in descending order.
        indices: [R, k] int64.
        opened: [R] int64, how many blocks of items were looked into (the reference looks into all).
        logsumexp: [R] float32, of the logits of the items that may be drawn; [0] unless asked for.
    """

    values: Tensor
    indices: Tensor
    opened: Tensor
    logsumexp: Tensor


def catalogue_sample(
    hidden: Tensor,
    catalogue: Sequence[Tensor],
    k: int,
    *,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    rows: Tensor | None = None,
    step: int = 0,
    exclude: Tensor | None = None,
    logsumexp: bool = False,
    impl: Impl = "native",
) -> CatalogueDraws:
    """`linear_gumbel_topk` by thinning: exact draws that look into few blocks of a prepared catalogue. On the CPU only.

    `irecgan_ext.catalogue.CatalogueIndex.sample`, which prepares the catalogue and says how, is what to call. Each block has an
    upper bound on its weight, and a candidate arrival at the bound's rate. A block is looked into only if its candidate
    comes before the k-th draw; the candidate is an arrival with probability weight / bound, and if it is not, the block's next
    arrival comes Exp(1) / weight later. The law is that of `linear_gumbel_topk`, the samples on the same seed are others.

    Args:
        hidden: [R, H] float32.
        catalogue: B blocks of 64 items: panels [B, H, 64] float32, biases [B, 64] float32 (-inf where no item is), items [B, 64]
            int64, places [C] int64 (-1 for items that are never drawn), centroids [ceil(B/64), H, 64], log weights
            [ceil(B/64), 64], radii [B], spreads [B], scales [2] float32; perhaps centre [H] float32 and metric [H, H] float64.
        k: draws per row, 1..C, and at most the number of items that may be drawn.
        generator, seed, rows, step, impl: as in `gumbel_topk`.
        exclude: [R, X] int64, items of each row that are not drawn, padded with PAD.
        logsumexp: return it, for which all blocks are looked into; the draws are the same.

    Raises:
        ValueError: an argument breaks its rule, a logit is NaN or +inf, or a row has fewer than k finite logits (the reference
            does not look at the logits).
    """
    _check_impl(impl)
    row_ids = torch.arange(hidden.shape[:1].numel(), device=hidden.device) if rows is None else rows
    args = (hidden, list(catalogue), k, draw_seed(generator, seed), row_ids, step, exclude, logsumexp)
    if impl == "native":
        return CatalogueDraws(*_call(_ops.catalogue_sample, *args))
    _call(_ops.check_catalogue_sample, *args)
    with torch.no_grad():
        return CatalogueDraws(*reference.catalogue_sample(*args))


def linear_log_prob(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, impl: Impl = "native"
) -> Tensor:
    """Log-probability of one item per row under a linear softmax over the catalogue, whose logits are never held.

    Equivalent to `log_softmax(hidden @ weight.T + bias, 1)[r, targets[r]]`, i.e. to
    `-F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none")`. Forward and backward go tile by tile and
    keep no [R, C] tensor (cut cross-entropy, Wijmans et al., 2025): the backward pass computes each tile of logits anew.

    Differentiable once in hidden, weight and bias. A block of 256 rows or 512 items leaves out the products of a tile whose
    every entry |g_r ([c = target_r] - p_rc)| is below 2^-24 / C times the largest |g_r|, g the incoming gradient. What a row
    loses is below 2^-24 max |g| max |weight| in total, a float's rounding of the largest gradient; but an item that is
    that unlikely in every row may get a weight gradient of exactly 0.
    A tile with a target that is not near certain is never left out.

    The op makes four matrix products where PyTorch makes three. Where C is large it saves memory, and time if H is small.

    On a CUDA device hidden, weight and bias may be bfloat16 (sums are in float32; the gradients of the logits are rounded to
    bfloat16 before their products, as PyTorch's are), and nothing is left out. There the forward pass keeps 1/32 of the
    float32 logits' bytes, the backward pass two panels of at most 2^24 gradients; nothing in the data can raise: a row whose
    logits hold NaN, +inf or only -inf, or whose target is not below C, gets NaN, and so do its gradients.

    Args:
        hidden: [R, H] float32.
        weight: [C, H], of hidden's dtype.
        bias: [C], of hidden's dtype, or None for none; -inf excludes an item.
        targets: [R] int64, items in 0..C-1; a row with `PAD` has log-probability 0, no gradient, and is not computed.
        impl: "native" (any number of threads gives the same bits), or "reference" for the plain PyTorch twin.

    Returns:
        [R] float32.

    Raises:
        ValueError: an argument breaks its rule, or (CPU) a row that counts has a logit of NaN or +inf, or none but -inf (the
            reference does not look at the logits).
        RuntimeError: a second derivative is asked of the native op.
    """
    _check_impl(impl)
    args = (hidden, weight, bias, targets)
    if impl == "native":
        return _call(_ops.linear_log_prob, *args, differentiable=True)[0]
    _call(_ops.check_linear_log_prob, *args)
    return reference.linear_log_prob(*args)


class RolloutOutput(NamedTuple):
    """What `rollout` returns. W = max_steps; column 0 is a row's first step here, entries after a row's end are PAD or 0.

    Attributes:
        slates: [R, W, K] int64.
        clicks: [R, W] int64.
        rewards: [R, W] float32.
        lengths: [R] int64, steps generated here.
        censored: [R] bool, the cap was reached before an END.
        scores: [R] float32, D of the whole session, its prefix included; 0 without a discriminator.
        q: [R, W] float32, Eq (6) at each generated step; without completions only the last step's, which is D itself.
        work: [4] int64: session steps played, distinct click histories stepped, state rows projected, iterations.
    """

    slates: Tensor
    clicks: Tensor
    rewards: Tensor
    lengths: Tensor
    censored: Tensor
    scores: Tensor
    q: Tensor
    work: Tensor


def rollout(
    user: Sequence[Tensor],
    agent: Sequence[Tensor],
    discriminator: Sequence[Tensor],
    user_state: Tensor,
    agent_state: Tensor,
    discriminator_state: Tensor,
    state_index: Tensor,
    symbols: Tensor,
    steps: Tensor,
    rows: Tensor,
    score_sums: Tensor,
    *,
    cell: Literal["gru", "lstm"],
    reward: Literal["survival", "binary"],
    slate_size: int,
    completions: int,
    max_steps: int,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    share: bool = True,
    impl: Impl = "native",
) -> RolloutOutput:
    """Agent and user model against each other, from given states until END or the cap, in one native call.

    `irecgan_ext.rollout.rollout` is the same on models and `Trajectories`. Per step: recurrent states, slate (Eq 4,
    without replacement), click (Eq 1), reward (Eq 2), D's step score. Each row that goes on after a step also spawns
    `completions` copies that run to their own end; the mean of D over them is q_D of that step (Eq 6).

    Args:
        user: [embedding [C+2, E], (weight_ih, weight_hh, bias_ih, bias_hh) per layer, W^c [E, H], b^c [E], and for binary
            rewards W^r [E, H], b^r [E]]; float32. torch's GRU / LSTM parameter shapes.
        agent: [embedding, layers..., W^a [C, H], b^a [C]].
        discriminator: [embedding, layers..., W^d [E, H], b^d [E], and for binary rewards W^p [1, 1], b^p [1]]; empty for none.
        user_state, agent_state, discriminator_state: [Z, L, S, H] float32 initial states; Z = 1 (GRU: h) or 2 (LSTM: h, c).
        state_index: [R] int64, the initial state a row starts from. Rows with equal state and clicks share their states.
        symbols: [R] int64, the next recurrent input: `BOS` or the last clicked item.
        steps: [R] int64, steps already taken; row r starts at step steps[r].
        rows: [R] int64, global row ids that key the noise, 0..2^40-1.
        score_sums: [R] float32, sum of D's step scores over the steps already taken.
        cell, reward: the models' kinds.
        slate_size: K. completions: N. max_steps: the cap on a session's length, prefix included, at most 65535.
        generator, seed, impl: as in `gumbel_topk`.
        share: one state per distinct click history (the same samples, faster); False keeps one per session.

    On a CUDA device the parameters may be bfloat16 (computed in float32), L is at most 8, and the host does not wait: the
    launches depend on sizes alone, so that the call can be captured in a CUDA graph; a seed on the device is read there, and
    replays draw anew if the seed tensor is rewritten. Nothing in the data can raise. A session that cannot go on, because
    a model's output cannot be used or its row's start is out of range, ends at that step with click PAD, reward NaN and
    censored; scores and q that would come of it are NaN. Small models (their states in half of the shared memory of a
    multiprocessor) play in one kernel, where states are shared between a step's completions only; `work` says so.

    Raises:
        ValueError: an argument breaks its rule, or an agent's logits hold NaN, +inf or fewer than K finite entries (the
            reference does not look at the logits).
    """
    _check_impl(impl)
    args = (
        list(user),
        list(agent),
        list(discriminator),
        user_state,
        agent_state,
        discriminator_state,
        state_index,
        symbols,
        steps,
        rows,
        score_sums,
        draw_seed(generator, seed),
        cell,
        reward,
        slate_size,
        completions,
        max_steps,
        share,
    )
    if impl == "native":
        return RolloutOutput(*_call(_ops.rollout, *args))
    _call(_ops.check_rollout, *args)
    return RolloutOutput(*reference.rollout(*args))
