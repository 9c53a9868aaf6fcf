"""How fast is a rollout with q_D, against the same in PyTorch, eager or compiled, and in JAX?"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import device, harness
from bench.models import SLATE, Law, Models, Size, make
from bench.peers.rollout import compiled, eager, graphed, jax_scan, straightforward
from bench.peers.rollout.parts import Played, cat
from irecgan_ext import ops
from irecgan_ext.rollout import Rollout, rollout

COMPLETIONS, CAP = 5, 20
MEAN_LENGTH = 4
LOGITS_AT_HAND = 1024  # items; the op has the logits of larger catalogues never in memory
SIGMAS = 4.5  # how far the op's and a peer's means may differ, in standard errors
CHECKED_SESSIONS, LEAST_CHECKED_SESSIONS = 200, 8  # of the op; of a peer, where one call has fewer


@dataclass(frozen=True)
class Case:
    """Models of a size and law, and how many sessions they play per call.

    Attributes:
        sessions: of the op and the peers that drop finished rows.
        padded_sessions: of the peers that pad. Few of them flatter the straightforward one, which stops with its longest.
    """

    size: Size
    law: Law
    sessions: int
    padded_sessions: int


QUICK_SIZE = Size("gru", 32, 64, 1)
CASES = [
    Case(QUICK_SIZE, "trained", sessions=1024, padded_sessions=128),
    Case(QUICK_SIZE, "random", sessions=1024, padded_sessions=128),
    Case(Size("lstm", 50, 512, 2), "peaked", sessions=500, padded_sessions=4),
]
CATALOGUE_CASES = [Case(Size("gru", 32, 512, 1, items=40_000), "peaked", sessions=64, padded_sessions=4)]
CUDA_CASES = [
    Case(QUICK_SIZE, "trained", sessions=100_000, padded_sessions=10_000),
    Case(Size("lstm", 50, 512, 2), "random", sessions=10_000, padded_sessions=500),
]
CUDA_CATALOGUE_CASES = [Case(Size("gru", 32, 512, 1, items=40_000), "peaked", sessions=1_000, padded_sessions=100)]
QUICK_CASES = [Case(QUICK_SIZE, "trained", sessions=100, padded_sessions=20)]
QUICK_CATALOGUE_CASES = [Case(Size("gru", 8, 16, 1, items=2_000), "peaked", sessions=40, padded_sessions=20)]

Play = Callable[[int], Rollout | Played]  # so many sessions


@dataclass(frozen=True)
class Candidate:
    """A way to play `sessions` sessions."""

    play: Play
    sessions: int


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per case and number of threads, the op with and without shared states, and its peers."""
    return _run(QUICK_CASES if quick else CUDA_CASES if device.is_cuda() else CASES, threads, quick)


def run_catalogue(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """The same for a catalogue whose logits are never in memory."""
    cases = CUDA_CATALOGUE_CASES if device.is_cuda() else CATALOGUE_CASES
    return _run(QUICK_CATALOGUE_CASES if quick else cases, threads, quick)


def _run(cases: Sequence[Case], threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    rows = []
    for case in cases:
        print(f"rollout: {case.size}, {case.law}", file=sys.stderr, flush=True)
        models = make(case.size, case.law, MEAN_LENGTH, quick)
        candidates = _candidates(case, models)
        for number in threads:
            with harness.thread_count(number):
                if number == threads[0]:
                    _check(candidates, case)
                rows += _measure(case, candidates, _workload(models, case.sessions), number, quick)
    return rows


def _candidates(case: Case, models: Models) -> dict[str, Candidate]:
    sizes = {"max_steps": CAP, "completions": COMPLETIONS}
    many, few = case.sessions, case.padded_sessions
    candidates: dict[str, Candidate] = {
        "native": Candidate(partial(play_native, models), many),
        "native, states not shared": Candidate(partial(play_native, models, share=False), many),
        "eager PyTorch": Candidate(partial(play_eager, models), many),
    }
    step = compiled.Compiled(*models, SLATE)
    try:
        step.rollout(sessions=many, **sizes)
    except RuntimeError as error:  # no C++ compiler, no Python headers
        print(f"peer torch.compile is left out: {str(error).splitlines()[0]}")
    else:
        candidates["torch.compile of its step"] = Candidate(lambda n: step.rollout(sessions=n, **sizes), many)
    if device.is_cuda():
        padded = graphed.Graphed(*models, SLATE, sessions=few, **sizes)
        candidates["CUDA graph of padded PyTorch"] = Candidate(lambda _: padded.rollout(), few)
    candidates["straightforward PyTorch"] = Candidate(
        lambda n: straightforward.rollout(*models, sessions=n, slate_size=SLATE, **sizes), few
    )
    problem = jax_scan.unavailable()
    if problem is None:
        scan = jax_scan.Scan(*models, SLATE)
        candidates["JAX jit, scan"] = Candidate(lambda n: scan.rollout(sessions=n, **sizes), few)
    else:
        print(f"peer JAX jit, scan is left out: {problem}")
    return candidates


def play_native(
    models: Models, sessions: int, share: bool = True, seed: int | None = None, cap: int = CAP, n: int = COMPLETIONS
) -> Rollout:
    return rollout(*models, sessions=sessions, slate_size=SLATE, max_steps=cap, completions=n, share=share, seed=seed)


def play_eager(models: Models, sessions: int, cap: int = CAP, n: int = COMPLETIONS) -> Played:
    return eager.rollout(*models, sessions=sessions, slate_size=SLATE, max_steps=cap, completions=n)


def _check(candidates: dict[str, Candidate], case: Case) -> None:
    native = candidates["native"].play(CHECKED_SESSIONS)
    assert isinstance(native, Rollout)
    for name, candidate in candidates.items():
        # Fixed shapes are compiled for: the check must not ask for others than the timing.
        calls = -(-LEAST_CHECKED_SESSIONS // candidate.sessions)
        played = [candidate.play(candidate.sessions) for _ in range(calls)]
        if isinstance(played[0], Played):
            check_same(name, native, cat(played), case.size.items)


def check_same(peer: str, native: Rollout, played: Played, items: int) -> None:
    """Raise AssertionError unless op and peer agree in mean reward, length, score and q within statistical error."""
    sessions = native.trajectories
    if native.q is None or native.scores is None:
        raise AssertionError("native: a rollout with completions must have scores and q")
    for name, slates, lengths in (
        ("native", sessions.slates, sessions.lengths),
        (peer, played.slates, played.lengths),
    ):
        ordered = slates[torch.arange(slates.shape[1]) < lengths[:, None]].sort(1).values
        if not bool((ordered[:, 1:] != ordered[:, :-1]).all() and ordered.min() >= 0 and ordered.max() < items):
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
        # Of one law, so of one variance: that of few sessions alone would be a poor estimate.
        squares = float(ours.var(correction=0) * len(ours) + theirs.var(correction=0) * len(theirs))
        freedom = len(ours) + len(theirs) - 2
        error = math.sqrt(squares / freedom * (1 / len(ours) + 1 / len(theirs)))
        if abs(float(ours.mean() - theirs.mean())) > SIGMAS * error:
            raise AssertionError(f"{name}: native {ours.mean():.4f}, {peer} {theirs.mean():.4f}, error {error:.4f}")


def _mean_q(q: Tensor, lengths: Tensor) -> Tensor:
    """[B]: mean q over each session's steps."""
    return q.sum(1) / lengths


def _early_q(q: Tensor, lengths: Tensor) -> Tensor:
    """q of the first step of the sessions that go on after it, an average over completions."""
    return q[:, 0][lengths > 1]


@dataclass(frozen=True)
class Workload:
    """What one call of the op holds.

    Attributes:
        steps: session steps. distinct: click histories. going: share of the steps after which the session goes on.
        effective_items: exp of the policy's mean entropy.
    """

    steps: int
    distinct: int
    going: float
    effective_items: float


@torch.inference_mode()
def _workload(models: Models, sessions: int) -> Workload:
    played = play_native(models, sessions, seed=1)
    steps, distinct, _, _ = played.work.tolist()
    agent, trajectories = models[1], played.trajectories
    ends = sessions + COMPLETIONS * int((trajectories.lengths - 1).sum())
    states = agent.encoder.at_steps(trajectories)
    parts = states.split(1024)  # the logits of a large catalogue, a part at a time
    entropies = [torch.distributions.Categorical(logits=agent.logits(part)).entropy() for part in parts]
    return Workload(steps, distinct, 1 - ends / steps, math.exp(float(torch.cat(entropies).mean())))


@dataclass(frozen=True)
class Floor:
    """What a call cannot do without, at rates measured beside it.

    Attributes:
        rate: GFLOP/s of matrix products.
        products: ms of the call's products at that rate.
        slates: ms of its slates at the rate of `gumbel_topk` (not for large catalogues, where reading the logits is the
            products' part).
    """

    rate: float
    products: float
    slates: float


def _floor(size: Size, workload: Workload, seconds: float) -> Floor:
    rate = _product_rate(seconds)
    flop = workload.distinct * (size.state_flop() + workload.going * size.parent_flop())
    slates = 0.0
    if size.items <= LOGITS_AT_HAND:
        logits = torch.randn(4096, size.items)
        draw = harness.compare({"slates": partial(ops.gumbel_topk, logits, SLATE)}, seconds=seconds)["slates"]
        slates = draw.ms.median * workload.steps / len(logits)
    return Floor(rate, flop / rate / 1e6, slates)


def _product_rate(seconds: float) -> float:
    """GFLOP/s of `F.linear` or, on the CPU, where that is faster, of `linear_gumbel_topk`: the package's own products and
    one draw per row."""
    rate = harness.gemm_rate(seconds=seconds)
    if device.is_cuda():
        return rate
    rows, inner, columns = harness.GEMM
    hidden, weight = torch.randn(rows, inner), torch.randn(columns, inner)
    native = harness.compare({"own": lambda: ops.linear_gumbel_topk(hidden, weight, None, 1)}, seconds=seconds)["own"]
    return max(rate, 2 * rows * inner * columns / 1e6 / native.ms.median)


def _measure(
    case: Case, candidates: dict[str, Candidate], workload: Workload, threads: int, quick: bool
) -> list[dict[str, Any]]:
    steps, distinct = workload.steps, workload.distinct
    floor = _floor(case.size, workload, seconds=0.05 if quick else 0.5)
    calls: dict[str, harness.Work] = {name: partial(c.play, c.sessions) for name, c in candidates.items()}
    measured = harness.compare(calls, seconds=0.1 if quick else 5, rounds=2 if quick else 3 if device.is_cuda() else 7)
    rows = []
    for name, m in measured.items():
        share = case.sessions / candidates[name].sessions
        per_second = 1e3 * candidates[name].sessions / m.ms.median
        native = name == "native"
        rows.append(
            {
                "models": f"{case.size}, {case.law}",
                "effective items": workload.effective_items,
                "threads": threads,
                "what": name,
                "sessions per call": candidates[name].sessions,
                "ms per call (quartiles)": m.ms,
                "time per session / native (quartiles)": m.ratio.times(share),
                "sessions/s": per_second,
                "steps/s": per_second * steps / case.sessions,
                "states per step": distinct / steps if native else None,
                "floor: GFLOP/s": floor.rate if native else None,
                "floor: products ms": floor.products if native else None,
                "floor: slates ms": floor.slates if native else None,
                "floor / time": (floor.products + floor.slates) / m.ms.median if native else None,
                "peak extra MB": None if m.extra_mb is None else round(m.extra_mb),
                "rounds": m.rounds,
            }
        )
    return rows
