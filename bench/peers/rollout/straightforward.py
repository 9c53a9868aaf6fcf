"""The rollout as it is first written: prefixes encoded anew at every step, nothing cached, D on whole sessions at the end.

What the paper's authors' code does, but in batches: all sessions, and all completions of all sessions' prefixes of one
length, go through each step together, padded; sessions that have ended stay in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peers.rollout.parts import Played, draw_click, draw_slate
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.types import BOS, END, Trajectories

BATCH = 4096  # sessions that D scores at a time


@torch.inference_mode()
def rollout(
    user: UserModel,
    agent: Agent,
    discriminator: Discriminator,
    *,
    sessions: int,
    slate_size: int,
    max_steps: int,
    completions: int,
) -> Played:
    """R = `sessions` fresh sessions with rewards "survival", N = `completions` per step on which a session goes on.

    The models must be in evaluation mode.
    """
    empty = torch.empty(sessions, 0, dtype=torch.int64)
    slates, clicks = _continue(user, agent, empty[..., None].expand(-1, -1, slate_size), empty, slate_size, max_steps)
    roots = _trajectories(slates, clicks)
    scores = _scores(discriminator, roots)
    q = torch.zeros(sessions, clicks.shape[1])
    for step in range(clicks.shape[1] - 1):
        prefix_slates = slates[:, : step + 1].repeat_interleave(completions, 0)
        prefix_clicks = clicks[:, : step + 1].repeat_interleave(completions, 0)
        played = _trajectories(*_continue(user, agent, prefix_slates, prefix_clicks, slate_size, max_steps))
        q[:, step] = _scores(discriminator, played).view(sessions, completions).mean(1)
    last = roots.lengths[:, None] - 1
    steps = torch.arange(clicks.shape[1])
    q = torch.where(steps < last, q, torch.where(steps == last, scores[:, None], 0.0))
    return Played(slates, roots.clicks, roots.rewards, roots.lengths, scores, q)


def _continue(
    user: UserModel, agent: Agent, slates: Tensor, clicks: Tensor, slate_size: int, max_steps: int
) -> tuple[Tensor, Tensor]:
    """Sessions with prefixes `slates` [n, t, K] and `clicks` [n, t], until all have ended or the cap is reached."""
    items = agent.encoder.items
    ended = (clicks == END).any(1)
    while clicks.shape[1] < max_steps and not bool(ended.all()):
        inputs = torch.cat([torch.full((len(clicks), 1), BOS), clicks], 1)
        agent_hidden, user_hidden = agent.encoder(inputs)[:, -1], user.encoder(inputs)[:, -1]
        slate = draw_slate(agent.logits(agent_hidden), slate_size)
        symbol = draw_click(user, user_hidden, torch.nn.functional.pad(slate, (0, 1), value=items))
        click = torch.where(ended | (symbol == items), END, symbol)
        slates, clicks = torch.cat([slates, slate[:, None]], 1), torch.cat([clicks, click[:, None]], 1)
        ended |= click == END
    return slates, clicks


def _trajectories(slates: Tensor, clicks: Tensor) -> Trajectories:
    """The sessions up to their first END, which repeats until the padded end."""
    ends = clicks == END
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, clicks.shape[1])
    counted = torch.arange(clicks.shape[1]) < lengths[:, None]
    start = torch.full((len(clicks),), BOS)
    rewards = ((clicks >= 0) & counted).float()
    return Trajectories(start, slates, torch.where(counted, clicks, -1), rewards, lengths, ~ends.any(1))


def _scores(discriminator: Discriminator, sessions: Trajectories) -> Tensor:
    """[n] D of each session, from whole sequences."""
    parts = torch.arange(len(sessions)).split(BATCH)
    return torch.cat([torch.sigmoid(discriminator(sessions.select(part))) for part in parts])
