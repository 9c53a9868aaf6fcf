"""User model U: clicks on a slate and rewards of clicked items."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from irecgan_ext.models.encoder import Cell, Encoder
from irecgan_ext.models.ragged import by_width, spread
from irecgan_ext.types import END, PAD, Trajectories

RewardMode = Literal["survival", "binary"]


def check_reward(reward: str) -> None:
    """Raise ValueError unless `reward` is a known reward mode."""
    if reward not in ("survival", "binary"):
        raise ValueError(f"reward must be 'survival' or 'binary', got {reward!r}")


class UserModel(nn.Module):
    """Eq (1): softmax over the slate's items and END. Eq (2): Bernoulli reward of the clicked item.

    Args:
        items, embedding, hidden, layers, cell, dropout: see `Encoder`.
        reward: "survival" (r_t = 1 if and only if c_t is not END; no parameters) or "binary" (a reward head).

    Raises:
        ValueError: see `Encoder`; or `reward` is unknown.
    """

    def __init__(
        self,
        items: int,
        embedding: int,
        hidden: int,
        layers: int,
        cell: Cell = "gru",
        dropout: float = 0.0,
        reward: RewardMode = "survival",
    ) -> None:
        super().__init__()
        check_reward(reward)
        self.reward = reward
        self.encoder = Encoder(items, embedding, hidden, layers, cell, dropout)
        self.query = nn.Linear(hidden, embedding)
        self.reward_query = nn.Linear(hidden, embedding) if reward == "binary" else None

    def click_logits(self, states: Tensor, slates: Tensor) -> Tensor:
        """V^c of Eq (1).

        Args:
            states: [..., H]. slates: [..., K] int64, items or PAD.

        Returns:
            [..., K + 1]: the slate in order, END last; -inf for PAD.
        """
        candidates = functional.pad(slates, (0, 1), value=END)
        logits = self.encoder.products(self.query(states), candidates)
        return logits.masked_fill(candidates == PAD, -torch.inf)

    def click_log_probs(self, states: Tensor, slates: Tensor, clicks: Tensor) -> Tensor:
        """Eq (1): [S] log-probability of each click.

        Args:
            states: [S, H]. slates: [S, K] int64, items or PAD. clicks: [S] int64, an item of the slate or END.
        """

        def chosen(rows: Tensor, lists: Tensor) -> Tensor:
            logits = self.click_logits(states[rows], lists)
            candidates = functional.pad(lists, (0, 1), value=END)
            at_click = logits.masked_fill(candidates != clicks[rows, None], -torch.inf)
            return at_click.logsumexp(-1) - logits.logsumexp(-1)

        return by_width(chosen, slates)

    def reward_logits(self, states: Tensor, items: Tensor) -> Tensor:
        """[...]: logit of r = 1 in Eq (2) for clicked `items` [...] int64 in `states` [..., H].

        Raises:
            ValueError: the model has no reward head (reward = "survival").
        """
        if self.reward_query is None:
            raise ValueError("reward must be 'binary' for reward logits, got 'survival'")
        return (self.reward_query(states) * self.encoder.embed(items)).sum(-1)

    def forward(self, trajectories: Trajectories) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of what a batch of sessions shows.

        Returns:
            log p(c_t | s_t, a_t), [B, T], 0 after the end (an item that a slate holds twice counts twice); and for binary
            rewards log p(r_t | s_t, c_t), [B, T], 0 where nothing was clicked, otherwise None.
        """
        states = self.encoder.at_steps(trajectories)
        counted, clicked = trajectories.step_mask(), trajectories.click_mask()
        chosen = self.click_log_probs(states, trajectories.slates[counted], trajectories.clicks[counted])
        clicks = spread(chosen, counted)
        if self.reward_query is None:
            return clicks, None
        reward_logits = self.reward_logits(states[clicked[counted]], trajectories.clicks[clicked])
        loss = functional.binary_cross_entropy_with_logits(
            reward_logits, trajectories.rewards[clicked], reduction="none"
        )
        return clicks, spread(-loss, clicked)

    @torch.no_grad()
    def expectations(self, trajectories: Trajectories, log_odds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the model expects of each slate before it sees the click.

        Args:
            log_odds: [B, T, K], added to the candidates' logits in Eq (1).

        Returns:
            survival [B, T]: probability of a click rather than END; reward [B, T]: expected r_t, equal to it in mode
            "survival". Both are 0 after the end.
        """
        counted = trajectories.step_mask()
        odds = None if log_odds is None else log_odds[counted]
        survival, reward = self.expectations_of(self.encoder.at_steps(trajectories), trajectories.slates[counted], odds)
        return spread(survival, counted), spread(reward, counted)

    @torch.no_grad()
    def expectations_of(self, states: Tensor, slates: Tensor, log_odds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[...] survival and expected reward, as in `expectations`, of `slates` [..., K] in `states` [..., H]."""
        logits = self.click_logits(states, slates)
        if log_odds is not None:
            logits = logits + functional.pad(log_odds, (0, 1))
        clicks = torch.softmax(logits, -1)[..., :-1]
        survival = clicks.sum(-1)
        if self.reward_query is None:
            return survival, survival
        earns = torch.sigmoid(self.reward_logits(states[..., None, :], slates))
        return survival, (clicks * earns).sum(-1)

    def rollout_parameters(self) -> list[Tensor]:
        """Flat list that the rollout operator reads: embedding, recurrent layers, query, reward query if binary."""
        heads = [self.query] if self.reward_query is None else [self.query, self.reward_query]
        linear = [parameter for head in heads for parameter in (head.weight, head.bias)]
        return [self.encoder.embedding.weight, *self.encoder.rnn_parameters(), *linear]
