"""The simulated users as gymnasium environments.

An observation is the last symbol of the session: the clicked item (0..C-1), C after END, C + 1 at the start. It does
not determine the user's state; an agent that does well remembers the history. `info["state"]` holds the true state.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.simulators.policies import check_slate_size
from irecgan_ext.types import BOS, END, symbol_index

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class SlateSpace(MultiDiscrete):
    """Slates of K distinct items out of C: `MultiDiscrete([C] * K)` without the repetitions.

    Args:
        items: C.
        slate_size: K, in 1..C.
        num_envs: n for slates of n environments, shape [n, K]; None for shape [K].
        seed: of `sample`.
    """

    def __init__(self, items: int, slate_size: int, num_envs: int | None = None, seed: int | None = None) -> None:
        shape = (check_slate_size(slate_size, items),)
        self.items = items
        super().__init__(np.full(shape if num_envs is None else (num_envs, *shape), items), seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> Ints:
        """Distinct items, uniformly, in random order. Masks and probabilities are not supported (ValueError)."""
        if mask is not None or probability is not None:
            raise ValueError("mask and probability must be None: a slate space samples uniformly")
        noise = self.np_random.random((*self.nvec.shape[:-1], self.items))
        return noise.argsort(axis=-1)[..., : self.nvec.shape[-1]]

    def contains(self, x: Any) -> bool:
        """Whether `x` has the right shape and holds distinct items of the catalogue in every slate."""
        return super().contains(x) and bool((np.diff(np.sort(np.asarray(x), axis=-1), axis=-1) > 0).all())


class RecommendationEnv(gymnasium.Env[np.int64, Ints]):
    """One session per episode.

    Action: a slate, [K] distinct items; a ValueError otherwise. Reward: 1 for a click, 0 when the user leaves, which
    terminates the episode. `step` before `reset` or after the end raises gymnasium's ResetNeeded.

    Args:
        mdp: the users.
        slate_size: K.
        max_steps: truncate sessions after so many clicks; None for no limit.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's declaration)
    action_space: SlateSpace

    def __init__(self, mdp: MDP, slate_size: int, max_steps: int | None = None) -> None:
        self.mdp = mdp
        self.max_steps = _check_max_steps(max_steps)
        self.action_space = SlateSpace(mdp.items, slate_size)
        self.observation_space = Discrete(mdp.items + 2)
        self._running = False
        self._state = torch.zeros(1, dtype=torch.int64)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """A new session, in state 0. No `options` are defined."""
        super().reset(seed=seed)
        self._running, self._steps = True, 0
        self._state = torch.zeros(1, dtype=torch.int64)
        return np.int64(self.mdp.items + 1), {"state": 0}

    def step(self, action: Ints) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Show one slate; see the class."""
        if not self._running:
            raise ResetNeeded("reset must be called before the first step and after the end of a session")
        slates = _slates(action, self.action_space)[None]
        click, reward, state = self.mdp.step(self._state, slates, torch.from_numpy(self.np_random.random((1, 3))))
        terminated = int(click) == END
        self._steps += 1
        self._state = self._state if terminated else state
        truncated = not terminated and self._steps == self.max_steps
        self._running = not (terminated or truncated)
        observation = np.int64(symbol_index(click, self.mdp.items).item())
        return observation, float(reward), terminated, truncated, {"state": int(self._state)}


class RecommendationVectorEnv(VectorEnv[Ints, Ints, NDArray[Any]]):
    """`num_envs` sessions side by side, stepped together.

    Autoreset mode NEXT_STEP: the step after an episode's end ignores the action of that environment, starts a new
    session and returns its first observation with reward 0 and both flags false.

    Args:
        mdp: the users.
        num_envs: n, at least 1.
        slate_size: K; actions have shape [n, K].
        max_steps: truncate sessions after so many clicks; None for no limit.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (gymnasium's declaration)
    action_space: SlateSpace

    def __init__(self, mdp: MDP, num_envs: int, slate_size: int, max_steps: int | None = None) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.mdp = mdp
        self.num_envs = num_envs
        self.max_steps = _check_max_steps(max_steps)
        self.single_action_space = SlateSpace(mdp.items, slate_size)
        self.action_space = SlateSpace(mdp.items, slate_size, num_envs)
        self.single_observation_space = Discrete(mdp.items + 2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._started = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Ints, dict[str, Any]]:
        """New sessions everywhere, in state 0. No `options` are defined."""
        super().reset(seed=seed)
        self._started = True
        self._states = torch.zeros(self.num_envs, dtype=torch.int64)
        self._steps = torch.zeros(self.num_envs, dtype=torch.int64)
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool)
        return np.full(self.num_envs, self.mdp.items + 1), self._info()

    def step(self, actions: Ints) -> tuple[Ints, Floats, Flags, Flags, dict[str, Any]]:
        """Show one slate per environment; observations [n] int64, rewards [n] float64, flags [n] bool."""
        if not self._started:
            raise ResetNeeded("reset must be called before the first step")
        slates = _slates(actions, self.action_space)
        uniforms = torch.from_numpy(self.np_random.random((self.num_envs, 3)))
        on = (~self._ended).nonzero()[:, 0]
        clicks, rewards, states = self.mdp.step(self._states[on], slates[on], uniforms[on])

        symbols = torch.full((self.num_envs,), BOS).index_copy(0, on, clicks)
        gained = torch.zeros(self.num_envs, dtype=torch.float64).index_copy(0, on, rewards.double())
        terminated = symbols == END
        clicked = symbols >= 0
        self._states[self._ended] = 0
        self._states[on] = torch.where(clicks == END, self._states[on], states)
        self._steps = torch.where(self._ended, 0, self._steps + 1)
        truncated = clicked & (self._steps == self.max_steps) if self.max_steps else torch.zeros_like(clicked)
        self._ended = terminated | truncated
        observations = symbol_index(symbols, self.mdp.items).numpy()
        return observations, gained.numpy(), terminated.numpy(), truncated.numpy(), self._info()

    def _info(self) -> dict[str, Any]:
        return {"state": self._states.numpy().copy(), "_state": np.ones(self.num_envs, dtype=np.bool_)}


def _slates(action: Ints, space: SlateSpace) -> torch.Tensor:
    """The action as an int64 tensor; a ValueError unless its shape is the space's."""
    slates = np.asarray(action)
    if slates.shape != space.shape or not np.issubdtype(slates.dtype, np.integer):
        raise ValueError(f"action must be integers of shape {space.shape}, got {slates.dtype} of shape {slates.shape}")
    return torch.from_numpy(slates.astype(np.int64))


def _check_max_steps(max_steps: int | None) -> int | None:
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1 or None, got {max_steps}")
    return max_steps
