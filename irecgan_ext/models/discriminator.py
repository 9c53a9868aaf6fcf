"""Discriminator D: does a session look like a real user's?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from irecgan_ext.models.encoder import Cell, Encoder
from irecgan_ext.models.ragged import by_width, spread
from irecgan_ext.models.user_model import RewardMode, check_reward
from irecgan_ext.types import END, PAD, Trajectories

TEMPERATURE = 0.1  # of the softmax that stands for the argmax over the slate
EMBEDDING_STD = 0.3  # scores are products of embeddings: from smaller ones D starts almost without a gradient


class Discriminator(nn.Module):
    """Appendix 1: closeness of the click to the slate's favourite item, averaged over a session's steps, through a sigmoid.

    Args:
        items, embedding, hidden, layers, cell, dropout: see `Encoder`.
        reward: "binary" scales a step's score by W^p r_t + b^p (both start at 1); "survival" by 1.

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
        self.encoder = Encoder(items, embedding, hidden, layers, cell, dropout, embedding_std=EMBEDDING_STD)
        self.query = nn.Linear(hidden, embedding)
        self.reward_scale = nn.Linear(1, 1) if reward == "binary" else None
        if self.reward_scale is not None:
            nn.init.ones_(self.reward_scale.weight)
            nn.init.ones_(self.reward_scale.bias)

    def step_scores(self, states: Tensor, slates: Tensor, clicks: Tensor, rewards: Tensor) -> Tensor:
        """e(favourite) . e(c_t) (W^p r_t + b^p), the term of each step; the favourite is soft, over the slate and END.

        Args:
            states: [..., H]. slates: [..., K] int64, items or PAD. clicks: [...] int64, items or END. rewards: [...].

        Returns:
            [...] scores.
        """
        candidates = functional.pad(slates, (0, 1), value=END)
        logits = self.encoder.products(self.query(states), candidates).masked_fill(candidates == PAD, -torch.inf)
        favourite = self.encoder.mixture(torch.softmax(logits / TEMPERATURE, -1), candidates)
        scores = (favourite * self.encoder.embed(clicks)).sum(-1)
        return scores if self.reward_scale is None else scores * self.reward_scale(rewards[..., None])[..., 0]

    def forward(self, trajectories: Trajectories) -> Tensor:
        """[B] logits: mean score of the counted steps; D(tau) = sigmoid(logit)."""
        counted = trajectories.step_mask()
        states = self.encoder.at_steps(trajectories)
        clicks, rewards = trajectories.clicks[counted], trajectories.rewards[counted]

        def score(rows: Tensor, lists: Tensor) -> Tensor:
            return self.step_scores(states[rows], lists, clicks[rows], rewards[rows])

        scores = by_width(score, trajectories.slates[counted])
        return spread(scores, counted).sum(1) / trajectories.lengths

    def rollout_parameters(self) -> list[Tensor]:
        """Flat list that the rollout operator reads: embedding, recurrent layers, query, reward scale if binary."""
        heads = [self.query] if self.reward_scale is None else [self.query, self.reward_scale]
        linear = [parameter for head in heads for parameter in (head.weight, head.bias)]
        return [self.encoder.embedding.weight, *self.encoder.rnn_parameters(), *linear]
