"""Planning for users who may be any of several: `BeliefPolicy` with doubts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.simulators.optimal import belief_slates, oracle_values
from irecgan_ext.simulators.policies import Policy


class UncertainBeliefPolicy(Policy):
    """`BeliefPolicy` with a belief over (candidate, hidden state) in place of the state alone.

    The same QMDP: a slate is worth what it is worth on average over that belief if candidate and state were seen from the next
    step on. A session's clicks move the belief in the candidates too, as far as they say anything of them; the next session
    begins anew.

    Args:
        candidates: B possible users, equally probable before a session; all of M states and C items.
        slate_size: K.
    """

    def __init__(self, candidates: Sequence[MDP], slate_size: int) -> None:
        self.slate_size = slate_size
        self.rewards = torch.stack([mdp.rewards for mdp in candidates])
        transitions = torch.stack([mdp.transitions for mdp in candidates])
        values = torch.stack([oracle_values(mdp, slate_size).values for mdp in candidates])
        self.gains = self.rewards.square() * (1 + torch.einsum("bmcn,bn->bmc", transitions, values))
        self.by_item = transitions.permute(2, 0, 1, 3).contiguous()

    def begin(self, sessions: int, seed: int) -> None:
        super().begin(sessions, seed)
        self.beliefs = torch.zeros(sessions, *self.rewards.shape[:2], dtype=torch.float64)
        self.beliefs[:, :, 0] = 1 / len(self.rewards)

    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        beliefs, inverse = self.beliefs[rows].flatten(1).unique(dim=0, return_inverse=True)
        return belief_slates(beliefs, self.gains.flatten(0, 1), self.rewards.flatten(0, 1), self.slate_size)[inverse]

    def observe(self, rows: Tensor, slates: Tensor, clicks: Tensor) -> None:
        weights = self.rewards.permute(2, 0, 1)
        joint = self.beliefs[rows] * weights[clicks].square() / weights[slates].sum(1)
        moved = torch.einsum("abm,abmn->abn", joint, self.by_item[clicks])
        self.beliefs[rows] = moved / moved.sum((1, 2), keepdim=True)
