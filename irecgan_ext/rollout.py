"""Model-based rollouts: agent and user model against each other, scored by the discriminator, on `Trajectories`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from irecgan_ext import ops
from irecgan_ext.models import Agent, Discriminator, Encoder, UserModel
from irecgan_ext.models.ragged import spread
from irecgan_ext.types import BOS, PAD, Trajectories


@dataclass(frozen=True)
class Rollout:
    """Sessions that agent and user model made.

    Attributes:
        trajectories: B sessions, the prefix included.
        scores: [B] float32, D(tau); None without a discriminator.
        q: [B, T] float32, q_D(tau_0:t) of Eq (6) at each generated step, 1 on prefix steps and 0 after the end; None
            without completions. Its last counted entry is D(tau).
        work: [4] int64: session steps played, distinct click histories stepped, state rows projected, iterations.
    """

    trajectories: Trajectories
    scores: Tensor | None
    q: Tensor | None
    work: Tensor


def rollout(
    user: UserModel,
    agent: Agent,
    discriminator: Discriminator | None = None,
    *,
    slate_size: int,
    max_steps: int,
    sessions: int | None = None,
    start: Tensor | None = None,
    prefix: Trajectories | None = None,
    completions: int = 0,
    first_row: int = 0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    share: bool = True,
    impl: ops.Impl = "native",
) -> Rollout:
    """Play sessions until END or the cap, in one native call.

    Equivalent to sampling, step by step, a slate from Eq (4) without replacement, a click from Eq (1) and a reward from
    Eq (2); with `completions` = N, each step is also continued N times from the states at hand and scored by D (Eq 6).
    Models run without dropout and gradients; recompute log-probabilities on `trajectories` for autograd.

    Args:
        user, agent, discriminator: the three models, same items, cell and number of layers.
        slate_size: K.
        max_steps: cap on a session's length, prefix included; sessions that reach it are `censored`.
        sessions: B fresh sessions from BOS. Exactly one of `sessions`, `start` and `prefix` is given.
        start: [B] int64, fresh sessions from these symbols (BOS or items).
        prefix: B unfinished sessions to continue (no END step, shorter than max_steps).
        completions: N. Needs a discriminator.
        first_row: global id of the first session; sessions are keyed first_row, first_row + 1, ...
        generator, seed: source of the randomness, see `ops.gumbel_topk`.
        share: one state per distinct click history; the same samples, faster.
        impl: "native" or "reference".

    Raises:
        ValueError: an argument breaks its rule, a session of `prefix` is finished or too long, or a model's output cannot be
            used (NaN, infinite logits, an agent with fewer than K finite ones).
    """
    if sum(x is not None for x in (sessions, start, prefix)) != 1:
        raise ValueError("sessions, start, prefix: exactly one must be given")
    if sessions is not None and sessions < 0:
        raise ValueError(f"sessions must be at least 0, got {sessions}")
    device = agent.head.weight.device
    if prefix is None:
        if start is None:
            start = torch.full((sessions or 0,), BOS, device=device)
        prefix = _empty(start, slate_size)
    elif bool((~prefix.censored).any()) or bool((prefix.lengths >= max_steps).any()):
        raise ValueError(f"prefix must hold unfinished sessions shorter than max_steps = {max_steps}")
    with torch.no_grad(), _evaluation_mode(user, agent, discriminator):
        begin = _begin(user, agent, discriminator, prefix)
        out = ops.rollout(
            user.rollout_parameters(),
            agent.rollout_parameters(),
            [] if discriminator is None else discriminator.rollout_parameters(),
            *begin.states,
            begin.state_index,
            begin.symbols,
            prefix.lengths,
            first_row + torch.arange(len(prefix), device=device),
            begin.score_sums,
            cell=agent.encoder.cell,
            reward=user.reward,
            slate_size=slate_size,
            completions=completions,
            max_steps=max_steps,
            generator=generator,
            seed=seed,
            share=share,
            impl=impl,
        )
    _check_outputs(out)
    trajectories, q = _join(prefix, out)
    return Rollout(trajectories, None if discriminator is None else out.scores, q if completions else None, out.work)


@dataclass(frozen=True)
class _Begin:
    states: tuple[Tensor, Tensor, Tensor]  # [Z, L, S, H] of user model, agent, discriminator
    state_index: Tensor  # [B]
    symbols: Tensor  # [B]
    score_sums: Tensor  # [B]


@contextmanager
def _evaluation_mode(*models: nn.Module | None) -> Iterator[None]:
    """The models without dropout, each module's own mode restored afterwards."""
    modes = [(module, module.training) for model in models if model is not None for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _empty(start: Tensor, slate_size: int) -> Trajectories:
    count = start.shape[0]
    return Trajectories(
        start=start,
        slates=start.new_full((count, 0, slate_size), PAD),
        clicks=start.new_full((count, 0), PAD),
        rewards=start.new_zeros((count, 0), dtype=torch.float32),
        lengths=start.new_zeros(count),
        censored=start.new_ones(count, dtype=torch.bool),
    )


def _begin(user: UserModel, agent: Agent, discriminator: Discriminator | None, prefix: Trajectories) -> _Begin:
    """Where the rows start: the states before the last click of each prefix, which is the next recurrent input."""
    encoders = [user.encoder, agent.encoder, discriminator.encoder if discriminator is not None else agent.encoder]
    zeros = torch.zeros(len(prefix), device=prefix.start.device)
    if prefix.horizon == 0:
        states = [encoder.initial_state(1) for encoder in encoders]
        return _Begin((states[0], states[1], states[2]), torch.zeros_like(prefix.start), prefix.start, zeros)
    states = [_consumed(encoder, prefix) for encoder in encoders]
    symbols = torch.cat([prefix.start[:, None], prefix.clicks], 1).gather(1, prefix.lengths[:, None])[:, 0]
    sums = zeros
    if discriminator is not None:
        counted = prefix.step_mask()
        scores = discriminator.step_scores(
            discriminator.encoder.at_steps(prefix),
            prefix.slates[counted],
            prefix.clicks[counted],
            prefix.rewards[counted],
        )
        sums = spread(scores, counted).sum(1)
    return _Begin((states[0], states[1], states[2]), torch.arange(len(prefix), device=symbols.device), symbols, sums)


def _consumed(encoder: Encoder, prefix: Trajectories) -> Tensor:
    """[Z, L, B, H]: the state of each session after start, c_0, ..., c_{n-2}, n its length."""
    state = encoder.initial_state(len(prefix))
    inputs = prefix.inputs()
    for t in range(prefix.horizon):
        reached = (t < prefix.lengths)[:, None]
        state = torch.where(reached, encoder.step(state, inputs[:, t]), state)
    return state


def _check_outputs(out: ops.RolloutOutput) -> None:
    """What the CPU op raises, and the CUDA op can only mark (`ops.rollout`)."""
    if bool((out.rewards.sum() + out.scores.sum() + out.q.sum()).isnan()):
        bad = out.rewards.isnan().any(1) | out.scores.isnan() | out.q.isnan().any(1)
        raise ValueError(f"models must have finite outputs, got NaN: session {int(bad.nonzero()[0])}")


def _join(prefix: Trajectories, out: ops.RolloutOutput) -> tuple[Trajectories, Tensor]:
    """Prefix and generated steps in one batch, trimmed to its longest session; and q on the same steps."""
    lengths = prefix.lengths + out.lengths
    horizon = int(lengths.max()) if len(lengths) else 0
    if prefix.horizon == 0 and prefix.slate_size <= out.slates.shape[2]:
        slates, clicks, rewards, q = (x[:, :horizon].contiguous() for x in (out.slates, out.clicks, out.rewards, out.q))
        return Trajectories(prefix.start, slates, clicks, rewards, lengths, out.censored), q
    steps = torch.arange(horizon, device=lengths.device)
    column = steps - prefix.lengths[:, None]
    generated = (column >= 0) & (steps < lengths[:, None])
    index = column.clamp(0, max(out.clicks.shape[1] - 1, 0))

    def merge(old: Tensor, new: Tensor, fill: float) -> Tensor:
        base = new.new_full((len(lengths), horizon, *new.shape[2:]), fill)
        shared = min(horizon, old.shape[1])
        base[:, :shared, ...] = old[:, :shared]
        at = index if new.dim() == 2 else index[..., None].expand(-1, -1, new.shape[2])
        mask = generated if new.dim() == 2 else generated[..., None]
        return torch.where(mask, new.gather(1, at), base)

    width = out.slates.shape[2]
    slates = torch.nn.functional.pad(prefix.slates, (0, max(0, width - prefix.slate_size)), value=PAD)
    ones = torch.where(prefix.step_mask(), 1.0, 0.0)
    wider = torch.nn.functional.pad(out.slates, (0, slates.shape[2] - width), value=PAD)
    trajectories = Trajectories(
        start=prefix.start,
        slates=merge(slates, wider, PAD),
        clicks=merge(prefix.clicks, out.clicks, PAD),
        rewards=merge(prefix.rewards, out.rewards, 0.0),
        lengths=lengths,
        censored=out.censored,
    )
    return trajectories, merge(ones, out.q, 0.0)
