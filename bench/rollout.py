"""How fast is a rollout with q_D, against the same in eager PyTorch?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import harness
from bench.peers import rollout as peer
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.models.encoder import Cell
from irecgan_ext.rollout import Rollout, rollout

QUICK_SESSIONS, CHECKED_SESSIONS = 100, 200
ITEMS, SLATE, COMPLETIONS, CAP = 50, 10, 5, 20
MEAN_LENGTH = 4
SIGMAS = 4.5  # how far the op's and the peer's means may differ, in standard errors


@dataclass(frozen=True)
class Size:
    """Cell, embedding width E, state width H and layers L of the three models, and how many sessions they play."""

    cell: Cell
    embedding: int
    hidden: int
    layers: int
    sessions: int

    def __str__(self) -> str:
        return f"{self.cell.upper()} E={self.embedding} H={self.hidden} L={self.layers}"

    def step_flop(self) -> int:
        """Floating-point operations of the recurrent matrix products of one model for one symbol."""
        gates = 4 if self.cell == "lstm" else 3
        inputs = self.embedding + self.hidden * (self.layers - 1)
        return 2 * gates * self.hidden * (inputs + self.hidden * self.layers)


SIZES = [Size("gru", 32, 64, 1, sessions=1000), Size("lstm", 50, 512, 2, sessions=200)]


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per model size and number of threads, the op with and without shared states, and its peer."""
    rows = []
    for size in SIZES[:1] if quick else SIZES:
        models = make_models(size)
        sessions = QUICK_SESSIONS if quick else size.sessions
        for number in threads:
            with harness.thread_count(number):
                if number == threads[0]:
                    check_same(models, min(sessions, CHECKED_SESSIONS))
                rows += _measure(size, models, sessions, number, quick)
    return rows


Models = tuple[UserModel, Agent, Discriminator]


def make_models(size: Size) -> Models:
    """Random models, END's click logit the constant that ends a session with probability 1 / MEAN_LENGTH among K logits 0."""
    torch.manual_seed(1)
    shape = (ITEMS, size.embedding, size.hidden, size.layers, size.cell)
    user, agent, discriminator = UserModel(*shape), Agent(*shape), Discriminator(*shape)
    with torch.no_grad():
        end = user.encoder.embedding.weight[ITEMS]
        end.zero_()
        end[0] = math.log(SLATE / (MEAN_LENGTH - 1))
        user.query.weight[0].zero_()
        user.query.bias[0] = 1.0
    return user, agent, discriminator


def _native(models: Models, sessions: int, share: bool = True, seed: int | None = None) -> Rollout:
    return rollout(
        *models,
        sessions=sessions,
        slate_size=SLATE,
        max_steps=CAP,
        completions=COMPLETIONS,
        share=share,
        seed=seed,
    )


def _eager(models: Models, sessions: int) -> peer.Played:
    return peer.rollout(*models, sessions=sessions, slate_size=SLATE, max_steps=CAP, completions=COMPLETIONS)


def check_same(models: Models, count: int) -> None:
    """Raise AssertionError unless op and peer agree in mean reward, length, score and q within statistical error."""
    native, played = _native(models, count), _eager(models, count)
    sessions = native.trajectories
    if native.q is None or native.scores is None:
        raise AssertionError("native: a rollout with completions must have scores and q")
    for name, slates, lengths in (
        ("native", sessions.slates, sessions.lengths),
        ("peer", played.slates, played.lengths),
    ):
        ordered = slates[torch.arange(slates.shape[1]) < lengths[:, None]].sort(1).values
        if not bool((ordered[:, 1:] != ordered[:, :-1]).all() and ordered.min() >= 0 and ordered.max() < ITEMS):
            raise AssertionError(f"{name}: slates must hold distinct items")
    pairs = {
        "reward": (sessions.rewards.sum(1), played.rewards.sum(1)),
        "length": (sessions.lengths, played.lengths),
        "score": (native.scores, played.scores),
        "q": (_mean_q(native.q, sessions.lengths), _mean_q(played.q, played.lengths)),
        "q before the end": (_early_q(native.q, sessions.lengths), _early_q(played.q, played.lengths)),
    }
    for name, (ours, theirs) in pairs.items():
        ours, theirs = ours.double(), theirs.double()
        error = math.sqrt(float(ours.var() / len(ours) + theirs.var() / len(theirs)))
        if abs(float(ours.mean() - theirs.mean())) > SIGMAS * error:
            raise AssertionError(f"{name}: native {ours.mean():.4f}, peer {theirs.mean():.4f}, error {error:.4f}")


def _mean_q(q: Tensor, lengths: Tensor) -> Tensor:
    """[B]: mean q over each session's steps."""
    return q.sum(1) / lengths


def _early_q(q: Tensor, lengths: Tensor) -> Tensor:
    """q of the first step of the sessions that go on after it, an average over completions."""
    return q[:, 0][lengths > 1]


def _measure(size: Size, models: Models, sessions: int, threads: int, quick: bool) -> list[dict[str, Any]]:
    ceiling = harness.gemm_rate(seconds=0.05 if quick else 0.5)
    calls: dict[str, harness.Work] = {
        "native": lambda: _native(models, sessions),
        "native, states not shared": lambda: _native(models, sessions, share=False),
        "eager PyTorch": lambda: _eager(models, sessions),
    }
    steps, distinct, _, _ = _native(models, sessions, seed=1).work.tolist()
    measured = harness.compare(calls, seconds=0.1 if quick else 5, rounds=3)
    rows = []
    for name, m in measured.items():
        rate = 3 * size.step_flop() * (distinct if name == "native" else steps) / 1e6 / m.ms.median
        rows.append(
            {
                "models": str(size),
                "sessions": sessions,
                "threads": threads,
                "what": name,
                "ms (quartiles)": m.ms,
                "time / native (quartiles)": m.ratio,
                "sessions/s": 1e3 * sessions / m.ms.median,
                "steps/s": 1e3 * steps / m.ms.median,
                "states per step": distinct / steps if name == "native" else 1.0,
                "recurrent GFLOP/s": rate,
                "share of F.linear": harness.share(rate, ceiling, "GFLOP/s"),
                "peak extra MB": None if m.extra_mb is None else round(m.extra_mb),
                "rounds": m.rounds,
            }
        )
    return rows
