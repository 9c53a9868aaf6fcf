"""How many sessions per second does training on a large catalogue take in, against padded PyTorch with all logits?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import harness
from irecgan_ext import losses
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.packed import PackedSessions
from irecgan_ext.training.batches import minibatches, sizes
from irecgan_ext.training.config import AdversarialConfig
from irecgan_ext.training.pretrain import agent_loss, user_loss
from irecgan_ext.types import BOS, END, Trajectories

ITEMS, HIDDEN, SESSIONS, BATCH = 40_000, 64, 512, 128
QUICK_ITEMS, QUICK_SESSIONS = 6_000, 16
EMBEDDING = 32
MEAN_CLICKS, MEAN_LIST, LONGEST_LIST = 2.8, 145, 900  # of the paper's log (section 7.2) and of its raw lists
LEARNING_RATE = 1e-3
PEER = "PyTorch: padded log, all logits of clicked steps"


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per model and number of threads, one pass over the sessions by the package and by PyTorch."""
    items, count = (QUICK_ITEMS, QUICK_SESSIONS) if quick else (ITEMS, SESSIONS)
    log = synthetic_log(count, items)
    padded = log.select(torch.arange(count))
    config = AdversarialConfig()
    rows = []
    for name, make, ours, theirs in (
        ("agent, Eq (10)", Agent, agent_loss, all_logits_loss),
        ("user model, Eq (3)", UserModel, user_loss, user_loss),
    ):
        torch.manual_seed(1)
        model = make(items, EMBEDDING, HIDDEN, 1)
        check(model, padded, ours, theirs, config)
        for number in threads:
            with harness.thread_count(number):
                rows += _measure(name, model, log, padded, ours, theirs, config, number, quick)
    return rows


def synthetic_log(count: int, items: int) -> PackedSessions:
    """Sessions with lists of the paper's lengths: most are short, some lists are very long."""
    generator = torch.Generator().manual_seed(3)

    def draw(mean: float, longest: int, n: int) -> Tensor:
        uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        return (1 - mean * torch.log1p(-uniform)).long().clamp(max=longest)

    lengths = draw(MEAN_CLICKS - 1, 40, count) + 1  # the last step is END's
    steps = int(lengths.sum())
    widths = draw(MEAN_LIST - 1, LONGEST_LIST, steps)
    lists = [torch.randperm(items, generator=generator)[:width] for width in widths.tolist()]
    clicks = torch.stack([row[0] for row in lists])
    clicks[lengths.cumsum(0) - 1] = END
    return PackedSessions(
        start=torch.full((count,), BOS),
        lengths=lengths,
        censored=torch.zeros(count, dtype=torch.bool),
        clicks=clicks,
        rewards=(clicks >= 0).float(),
        widths=widths,
        items=torch.cat(lists).int(),
        slate_size=10,
    )


def all_logits_loss(agent: Agent, log: Trajectories, config: AdversarialConfig) -> Tensor:
    """`agent_loss` in plain PyTorch: the logits of the clicked steps over the whole catalogue."""
    mask, clicked = log.step_mask(), log.click_mask()
    logits = agent.head(agent.encoder.at_steps(log)[clicked[mask]])
    log_probs = -functional.cross_entropy(logits, log.clicks[clicked], reduction="none")
    returns = losses.agent_returns(torch.ones_like(log.rewards), log.rewards, mask, config.gamma, config.lambda_r)
    return -(returns[clicked] * log_probs).sum() / len(log)


def check(
    model: nn.Module, padded: Trajectories, ours: Callable[..., Tensor], theirs: Callable[..., Tensor], config: Any
) -> None:
    """Raise AssertionError unless both losses are the same number."""
    few = padded.select(torch.arange(min(len(padded), 32)))
    torch.testing.assert_close(ours(model.eval(), few, config), theirs(model, few, config), rtol=1e-4, atol=1e-4)


def _measure(
    name: str,
    model: nn.Module,
    log: PackedSessions,
    padded: Trajectories,
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    config: AdversarialConfig,
    threads: int,
    quick: bool,
) -> list[dict[str, Any]]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    model.train()

    def step(loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def package() -> None:
        for index in minibatches(sizes(log), BATCH, torch.Generator().manual_seed(1)):
            step(ours(model, log.select(index), config))

    def plain() -> None:
        for index in torch.randperm(len(padded)).split(BATCH):
            step(theirs(model, padded.select(index), config))

    calls: dict[str, harness.Work] = {"package": package, PEER: plain}
    measured = harness.compare(calls, seconds=0.1 if quick else 10, rounds=1 if quick else 3)
    held = {"package": _megabytes(log), PEER: _megabytes(padded)}
    return [
        {
            "model": name,
            "sessions, H, C": f"{len(log):,}, {HIDDEN}, {model.encoder.items:,}",
            "threads": threads,
            "what": what,
            "ms (quartiles)": m.ms,
            "time / native (quartiles)": m.ratio,
            "sessions/s": round(len(log) / m.ms.median * 1e3),
            "log MB": held[what],
            "peak extra MB": None if m.extra_mb is None else round(m.extra_mb, 1),
            "rounds": m.rounds,
        }
        for what, m in measured.items()
    ]


def _megabytes(log: PackedSessions | Trajectories) -> float:
    return sum(value.nbytes for value in vars(log).values() if isinstance(value, Tensor)) / 1e6
