"""The simulated user of the paper's section 7.1: a Markov decision process over user states."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from irecgan_ext.errors import UserError
from irecgan_ext.files import atomic_write, reason
from irecgan_ext.types import BOS, END, PAD, Trajectories

if TYPE_CHECKING:
    from irecgan_ext.simulators.policies import Policy

SCHEMA = "irecgan_ext.mdp/1"
STEP_LIMIT = 65_536  # a session longer than this without `max_steps` is an error: some user never leaves


class EndlessSession(UserError, RuntimeError):
    """A simulated user never leaves."""


@dataclass(frozen=True, eq=False)
class MDP:
    """Users with M hidden states in front of C items.

    A slate's click candidate j is drawn with probability r(j|s) / sum of r(.|s) over the slate. The session goes on
    with probability r(j|s) (j is clicked, reward 1, next state from P(.|j,s)); otherwise it ends (END, reward 0).
    Sessions start in state 0.

    Attributes:
        rewards: [M, C] float64. r(item|state), a probability.
        transitions: [M, C, M] float64. P(next state | item, state) at [state, item, next state]; rows sum to 1.

    Raises:
        ValueError: a shape, dtype or range is wrong, or a row of `transitions` does not sum to 1 (within 1e-6).
    """

    rewards: Tensor
    transitions: Tensor

    def __post_init__(self) -> None:
        rewards, transitions = self.rewards, self.transitions
        for name, value in (("rewards", rewards), ("transitions", transitions)):
            if value.dtype != torch.float64:
                raise ValueError(f"{name} must be float64, got {value.dtype}")
        if rewards.dim() != 2 or 0 in rewards.shape:
            raise ValueError(f"rewards must have shape [M, C] with M, C >= 1, got {list(rewards.shape)}")
        expected = [*rewards.shape, rewards.shape[0]]
        if list(transitions.shape) != expected:
            raise ValueError(f"transitions must have shape [M, C, M] = {expected}, got {list(transitions.shape)}")
        bad = ~((rewards >= 0) & (rewards <= 1))
        if bool(bad.any()):
            state, item = bad.nonzero()[0].tolist()
            raise ValueError(f"rewards must be in 0..1, got {rewards[state, item]:g} at state {state}, item {item}")
        bad = ~(transitions >= 0).all(2) | ~((transitions.sum(2) - 1).abs() <= 1e-6)
        if bool(bad.any()):
            state, item = bad.nonzero()[0].tolist()
            row = transitions[state, item]
            raise ValueError(
                f"transitions must be probabilities that sum to 1, got a row with sum {row.sum():g} and minimum "
                f"{row.min():g} at state {state}, item {item}"
            )

    @property
    def states(self) -> int:
        """M."""
        return self.rewards.shape[0]

    @property
    def items(self) -> int:
        """C."""
        return self.rewards.shape[1]

    @cached_property
    def ranking(self) -> Tensor:
        """[M, C] int64: the items of each state from the highest r(.|s) to the lowest; equal ones by item id."""
        return self.rewards.argsort(dim=1, descending=True, stable=True)

    @classmethod
    def random(cls, states: int = 10, items: int = 50, transition_temperature: float = 1.0, seed: int = 0) -> MDP:
        """A draw of the paper's law: r(a|s) ~ U(0, 1), P(.|a, s) a softmax of `states` uniforms.

        Args:
            states: M.
            items: C.
            transition_temperature: divides the uniforms before the softmax. 1 is the paper's, close to uniform over
                next states; smaller values make transitions peaked and the click history informative.
            seed: non-negative; the same seed gives the same MDP.
        """
        for name, value in (("states", states), ("items", items)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not transition_temperature > 0:
            raise ValueError(f"transition_temperature must be positive, got {transition_temperature}")
        generator = np.random.default_rng(check_seed(seed))
        rewards = torch.from_numpy(generator.random((states, items)))
        logits = torch.from_numpy(generator.random((states, items, states)))
        return cls(rewards, torch.softmax(logits / transition_temperature, dim=2))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the MDP as a safetensors file, atomically."""
        tensors = {"rewards": self.rewards.contiguous(), "transitions": self.transitions.contiguous()}
        with atomic_write(os.fspath(path)) as stream:
            stream.write(save(tensors, metadata={"schema": SCHEMA}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MDP:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, is not a saved MDP, or breaks a rule of this class.
        """
        try:
            with safe_open(path, framework="pt") as file:
                schema = (file.metadata() or {}).get("schema")
                if schema != SCHEMA:
                    raise ValueError(f"schema must be {SCHEMA!r}, got {schema!r}")
                return cls(file.get_tensor("rewards"), file.get_tensor("transitions"))
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"{os.fspath(path)}: not a saved MDP: {reason(error)}") from error

    def step(self, states: Tensor, slates: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of A users.

        The outcome depends on the slate's items, not on their order: the candidate is drawn over the items by id.

        Args:
            states: [A] int64.
            slates: [A, K] int64, distinct items in each row.
            uniforms: [A, 3] float64 in [0, 1): they decide the candidate, whether it is clicked, and the next state.

        Returns:
            clicks [A] int64 (an item or END), rewards [A] float32 (1 on a click, 0 on END), next states [A] int64
            (meaningless where the session ended).

        Raises:
            ValueError: a slate repeats an item or holds one outside 0..C-1.
        """
        ordered = slates.sort(dim=1).values
        bad = (ordered[:, 0] < 0) | (ordered[:, -1] >= self.items) | (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if bool(bad.any()):
            slate = slates[bad][0].tolist()
            raise ValueError(f"slates must hold distinct items in 0..C-1 (C = {self.items}), got {slate}")
        candidate = _pick(self.rewards[states[:, None], ordered], uniforms[:, 0])
        items = ordered.gather(1, candidate[:, None])[:, 0]
        goes_on = uniforms[:, 1] < self.rewards[states, items]
        next_states = _pick(self.transitions[states, items], uniforms[:, 2])
        return torch.where(goes_on, items, END), goes_on.float(), next_states


class SimulatedStep(NamedTuple):
    """What happened at one step in the A sessions still running.

    Attributes:
        rows: [A] int64. Their session indices.
        states: [A] int64. Their true states before the step.
        slates: [A, K] int64.
        clicks: [A] int64. An item, or END.
        rewards: [A] float32.
    """

    rows: Tensor
    states: Tensor
    slates: Tensor
    clicks: Tensor
    rewards: Tensor


def simulate_steps(
    mdp: MDP, policy: Policy, sessions: int, *, slate_size: int, seed: int, max_steps: int | None = None
) -> Iterator[SimulatedStep]:
    """Run sessions side by side and yield one record per step; arguments and errors as in `simulate`."""
    if sessions < 1:
        raise ValueError(f"sessions must be at least 1, got {sessions}")
    if not 1 <= slate_size <= mdp.items:
        raise ValueError(f"slate_size must be in 1..C (C = {mdp.items}), got {slate_size}")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1 or None, got {max_steps}")
    check_seed(seed)
    return _run(mdp, policy, sessions, slate_size, seed, max_steps)


def _run(
    mdp: MDP, policy: Policy, sessions: int, slate_size: int, seed: int, max_steps: int | None
) -> Iterator[SimulatedStep]:
    """`simulate_steps` with checked arguments, which are refused at the call and not at the first step."""
    environment_seed, policy_seed = np.random.SeedSequence(seed).spawn(2)
    generator = np.random.default_rng(environment_seed)
    policy.begin(sessions, int(policy_seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    rows = torch.arange(sessions)
    states = torch.zeros(sessions, dtype=torch.int64)
    for step in range(STEP_LIMIT if max_steps is None else max_steps):
        slates = policy.recommend(rows, states)
        if slates.shape != (len(rows), slate_size):
            raise ValueError(
                f"policy must recommend slates of shape {[len(rows), slate_size]}, got {list(slates.shape)}"
            )
        # Drawn for every session, finished or not, so that a session meets the same noise whatever the policy.
        uniforms = torch.from_numpy(generator.random((sessions, 3)))[rows]
        clicks, rewards, next_states = mdp.step(states, slates, uniforms)
        yield SimulatedStep(rows, states, slates, clicks, rewards)
        on = clicks != END
        rows, states = rows[on], next_states[on]
        if len(rows) == 0 or step + 1 == max_steps:
            return
        policy.observe(rows, slates[on], clicks[on])
    raise EndlessSession(f"sessions must end within {STEP_LIMIT} steps when max_steps is None, {len(rows)} did not")


def simulate(
    mdp: MDP, policy: Policy, sessions: int, *, slate_size: int, seed: int, max_steps: int | None = None
) -> Trajectories:
    """Sessions of `policy` with the simulated users.

    The environment's randomness for (session, step) depends on `seed` and `sessions` alone, so two policies that run
    with the same arguments face the same users (common random numbers), and equal slates meet equal outcomes.

    Args:
        mdp: the users.
        policy: recommends K distinct items to every running session.
        sessions: B, at least 1.
        slate_size: K, in 1..C.
        seed: non-negative; the same seed gives the same sessions.
        max_steps: cut sessions after so many steps; those still running are `censored`. None: run all to their END.

    Returns:
        B sessions with states; `start` is BOS, the last slate of a session that ended is recorded with END.

    Raises:
        ValueError: an argument is out of range, or the policy recommends a wrong number of items, a repeated or an
            unknown one.
        EndlessSession: `max_steps` is None and a session runs for `STEP_LIMIT` steps.
    """
    steps = list(simulate_steps(mdp, policy, sessions, slate_size=slate_size, seed=seed, max_steps=max_steps))
    return gather(steps, sessions, slate_size)


def gather(steps: list[SimulatedStep], sessions: int, slate_size: int) -> Trajectories:
    """The steps of `simulate_steps`, in order, as sessions."""
    horizon = len(steps)
    slates = torch.full((sessions, horizon, slate_size), PAD)
    clicks = torch.full((sessions, horizon), PAD)
    states = torch.full((sessions, horizon), PAD)
    rewards = torch.zeros(sessions, horizon)
    for t, step in enumerate(steps):
        slates[step.rows, t] = step.slates
        clicks[step.rows, t] = step.clicks
        states[step.rows, t] = step.states
        rewards[step.rows, t] = step.rewards
    return Trajectories(
        start=torch.full((sessions,), BOS),
        slates=slates,
        clicks=clicks,
        rewards=rewards,
        lengths=(clicks != PAD).sum(1),
        censored=~(clicks == END).any(1),
        states=states,
    )


def check_seed(seed: int) -> int:
    """`seed` itself, or a ValueError if it is negative."""
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return seed


def _pick(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Index drawn in proportion to each row of weights.

    Args:
        weights: [A, n] float64, not negative. A row of zeros gives the last index.
        uniforms: [A] float64 in [0, 1).

    Returns:
        [A] int64: the first index whose cumulative weight exceeds the uniform's share of the total.
    """
    cumulative = weights.cumsum(1)
    below = cumulative <= (uniforms * cumulative[:, -1])[:, None]
    return below.sum(1).clamp(max=weights.shape[1] - 1)
