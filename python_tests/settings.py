"""Small models and the arguments of a rollout between them, shared by the tests of the rollout."""

from typing import Any

import torch
from torch import Tensor

from irecgan_ext import ops, reference
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.types import BOS, Trajectories

ITEMS, SLATE, CAP = 13, 4, 6


class Setting:
    """User model, agent and discriminator of different widths; `layers` layers each, or 2, 1 and 2."""

    def __init__(
        self, cell: str = "gru", reward: str = "survival", items: int = ITEMS, layers: int | None = None
    ) -> None:
        torch.manual_seed(0)
        self.cell, self.reward = cell, reward
        self.user = UserModel(items, 5, 7, layers or 2, cell, reward=reward)
        self.agent = Agent(items, 6, 8, layers or 1, cell)
        self.discriminator = Discriminator(items, 4, 6, layers or 2, cell, reward=reward)
        for model in self.models:
            torch.nn.init.normal_(model.encoder.embedding.weight, std=0.7)

    @property
    def models(self) -> tuple[UserModel, Agent, Discriminator]:
        return self.user, self.agent, self.discriminator

    def arguments(
        self,
        rows: Tensor,
        completions: int = 0,
        seed: int = 1,
        slate: int = SLATE,
        cap: int = CAP,
        scored: bool = True,
        prefix: tuple[Any, ...] | None = None,
        share: bool = True,
    ) -> dict[str, Any]:
        """The operator's arguments in order. `rows` start from BOS, or from prefix = (three states [Z, L, S, H],
        symbols [R], steps [R], score_sums [R]) and, if it holds one more, state_index [R]."""
        zeros = torch.zeros_like(rows)
        states = [m.encoder.initial_state(1) for m in self.models]
        states, symbols, steps, sums, *index = prefix or (states, zeros + BOS, zeros, zeros.float())
        flat = [[p.detach() for p in m.rollout_parameters()] for m in self.models]
        return {
            "user": flat[0],
            "agent": flat[1],
            "discriminator": flat[2] if scored else [],
            "user_state": states[0],
            "agent_state": states[1],
            "discriminator_state": states[2],
            "state_index": index[0] if index else zeros,
            "symbols": symbols,
            "steps": steps,
            "rows": rows,
            "score_sums": sums,
            "seed": torch.tensor(seed),
            "cell": self.cell,
            "reward": self.reward,
            "slate_size": slate,
            "completions": completions,
            "max_steps": cap,
            "share": share,
        }

    def roll(self, rows: Tensor, *args: Any, **options: Any) -> tuple[Tensor, ...]:
        """`reference.rollout` on `arguments`."""
        return reference.rollout(*self.arguments(rows, *args, **options).values())

    def native(self, rows: Tensor, *args: Any, impl: ops.Impl = "native", **options: Any) -> ops.RolloutOutput:
        """`ops.rollout` on `arguments`."""
        return ops.rollout(**self.arguments(rows, *args, **options), impl=impl)


def mixed_prefix(setting: Setting, rows: int) -> tuple[Any, ...]:
    """Rows that start from four states and symbols, at steps 0..4, with score sums; the last argument is state_index."""
    generator = torch.Generator().manual_seed(3)
    states = []
    for model in setting.models:
        shape = model.encoder.initial_state(4).shape
        states.append(0.5 * torch.randn(shape, generator=generator))
    index = torch.randint(4, (rows,), generator=generator)
    symbols = torch.tensor([BOS, 3, ITEMS - 1, 0])[index]
    steps = torch.randint(CAP - 1, (rows,), generator=generator)
    return states, symbols, steps, torch.randn(rows, generator=generator) * steps, index


def as_trajectories(out, start: Tensor | None = None) -> Trajectories:
    slates, clicks, rewards, lengths, censored = out[:5]
    start = torch.full_like(lengths, BOS) if start is None else start
    return Trajectories(start, slates, clicks, rewards, lengths, censored)


def bias_end(setting: Setting, logit: float) -> None:
    """Make END's click logit `logit` in every state, and every item's 0."""
    with torch.no_grad():
        setting.user.encoder.embedding.weight.zero_()
        setting.user.encoder.embedding.weight[ITEMS, 0] = logit
        setting.user.query.weight.zero_()
        setting.user.query.bias.zero_()
        setting.user.query.bias[0] = 1.0
