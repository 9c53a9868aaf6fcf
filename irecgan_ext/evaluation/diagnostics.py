"""Section 6 of the paper measured where P_data, P_g and P_pi are known: in the simulator.

A step is judged before its click: x_t = (tau_0:t-1, a_t) is what came before and the slate shown, as a set, since nobody in
the model looks at its order. In the simulator a reward is a click, so that given c_t generated and true reward would be equal,
and Delta 0 by definition; given x_t they are r^_t = E_U[r_t | x_t] and r_t = E[r_t | x_t]. The three laws of x_t are

    P_pi(x_t)   = prod_{s <= t} pi(a_s | c_<s) prod_{s < t} P(c_s | x_s)    the agent with the true users,
    P_g(x_t)    = prod_{s <= t} pi(a_s | c_<s) prod_{s < t} U(c_s | x_s)    the agent with the user model,
    P_data(x_t) = the logging policy with the true users, their hidden state summed out,

and sum_t E_{x_t ~ P} is the expected sum over the steps of a session, the END step included, up to the cap. Then

    Delta = r^_t - r_t,   delta_1 = 1 - P_pi(x_t) / P_g(x_t),   delta_2 = 1 - P_pi(x_t) / P_data(x_t),
    w_t = lambda_1 / (2 - delta_1 - delta_2) = lambda_1 / (P_pi / P_g + P_pi / P_data).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from irecgan_ext.evaluation.policies import AgentPolicy
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.models.ragged import spread
from irecgan_ext.rollout import rollout
from irecgan_ext.simulators.likelihood import session_law, slate_log_probs
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.policies import Policy
from irecgan_ext.types import Trajectories

CHUNK = 1000  # sessions looked at together
SLATES = 256  # whose probabilities are integrated together, in cache
LOG_NODES = (-25.0, 4.5, 0.2)  # of the integration variable: first, last, step


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What section 6 speaks of. Means "per step" are over the steps of the law's sessions.

    Attributes:
        delta: E_pi[Delta] per step. delta_size: E_pi[|Delta|] per step.
        delta_1: E_g[|delta_1|] per step, the L1 distance of P_pi from P_g (0 to 2, or nearly: session lengths may differ).
        delta_2: E_data[|delta_2|] per step, the L1 distance of P_pi from P_data.
        weight: E_pi[w_t] per step; lambda_1 / 2 where the three laws agree.
        value: V_pi = sum_t E_pi[r_t], the truth. value_data: sum_t E_data[r_t]. value_generated: sum_t E_g[r^_t].
        value_optimal: sum_t E_g[D*(x_t) r^_t], D* = P_data / (P_data + P_g), the first sum of Eq (12).
        value_learnt: sum_t E_g[q_D(tau_0:t) r^_t] with the discriminator at hand, Eq (6); None without one.
        bias_without: lambda_1 value_generated + lambda_2 value_data - value: the bias without rescaling.
        bias_optimal, bias_learnt: the same with the rescaled values: Eq (12) - value.
        term_delta: sum_t E_pi[w_t Delta]. term_delta_2: sum_t E_data[lambda_2 delta_2 r_t] = lambda_2 (value_data - value).
        term_weight: -sum_t E_pi[(lambda_1 - w_t) r_t]. The last line of section 6 says that the three add up to bias_optimal,
            which holds in expectation where the logging policy shows whatever the agent shows.
        steps: [T, 5] float64, T = max_steps: Delta, |Delta|, |delta_1|, |delta_2| and w_t of each step alone; NaN at steps that
            no session reached.
    """

    delta: float
    delta_size: float
    delta_1: float
    delta_2: float
    weight: float
    value: float
    value_data: float
    value_generated: float
    value_optimal: float
    value_learnt: float | None
    bias_without: float
    bias_optimal: float
    bias_learnt: float | None
    term_delta: float
    term_delta_2: float
    term_weight: float
    steps: Tensor


@torch.no_grad()
def diagnose(
    mdp: MDP,
    logging_policy: Policy,
    user: UserModel,
    agent: Agent,
    discriminator: Discriminator | None,
    *,
    slate_size: int,
    sessions: int,
    max_steps: int,
    lambda_1: float,
    completions: int = 5,
    seed: int = 0,
) -> Diagnostics:
    """Measure section 6 by drawing sessions from the three laws; their probabilities are exact.

    Args:
        mdp: the users. logging_policy: who made the log: random, max or mix.
        user, agent, discriminator: U, A (its slates are drawn, as in training) and D; without D, value_learnt is None.
        slate_size: K. sessions: drawn from each law. max_steps: cap on a session; values are those of so many steps.
        lambda_1: share of generated data in Eq (12), in (0, 1]; lambda_2 = 1 - lambda_1.
        completions: N of Eq (6), for q_D.
        seed: of the sessions.

    Raises:
        ValueError: an argument is out of range, or the law of the logging policy is not known.
    """
    if not 0 < lambda_1 <= 1:
        raise ValueError(f"lambda_1 must be in (0, 1], got {lambda_1}")

    def sampled(policy: Policy) -> Trajectories:
        return simulate(mdp, policy, sessions, slate_size=slate_size, seed=seed, max_steps=max_steps)

    own, logged = sampled(AgentPolicy(agent, slate_size, sample=True)), sampled(logging_policy)
    generated, learnt = [], []
    for first in range(0, sessions, CHUNK):
        played = rollout(
            user,
            agent,
            discriminator,
            slate_size=slate_size,
            max_steps=max_steps,
            sessions=min(CHUNK, sessions - first),
            first_row=first,
            completions=completions if discriminator is not None else 0,
            seed=seed,
        )
        generated.append(played.trajectories)
        if played.q is not None:
            learnt.append((played.q * played.trajectories.rewards).double().sum(1))
    laws = [_laws(mdp, logging_policy, user, agent, logs, max_steps) for logs in (generated, [own], [logged])]
    return _summary(laws[0], laws[1], laws[2], float(torch.cat(learnt).mean()) if learnt else None, lambda_1)


class _Laws(NamedTuple):
    """What the three laws say of B sessions, whoever made them. All [B, T]."""

    mask: Tensor  # bool, counted steps
    log_pi: Tensor  # log P_pi(x_t) and so on
    log_g: Tensor
    log_data: Tensor
    reward: Tensor  # r_t, given x_t
    generated_reward: Tensor  # r^_t, given x_t
    data_reward: Tensor  # r_t, given x_t and that the logging policy chose the slates, which may reveal the state


def _laws(
    mdp: MDP, logging_policy: Policy, user: UserModel, agent: Agent, logs: Sequence[Trajectories], horizon: int
) -> _Laws:
    """Of all sessions of `logs`, in parts that fit in memory; T = `horizon`."""
    user.eval()
    parts = []
    for log in logs:
        for index in torch.arange(len(log)).split(CHUNK):
            some = log.select(index)
            laws = _part(mdp, logging_policy, user, agent, some)
            parts.append([torch.nn.functional.pad(x, (0, horizon - some.horizon)) for x in laws])
    return _Laws(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _part(mdp: MDP, logging_policy: Policy, user: UserModel, agent: Agent, log: Trajectories) -> _Laws:
    truth = session_law(mdp, log)
    recorded = session_law(mdp, log, slate_log_probs(logging_policy, mdp, log.slates))
    own = agent_slate_log_probs(agent, log)
    believed = torch.where(log.step_mask(), user(log)[0].double(), 0.0)
    return _Laws(
        log.step_mask(),
        _before_click(own, truth.clicks),
        _before_click(own, believed),
        _before_click(recorded.slates, recorded.clicks),
        truth.survival,
        user.expectations(log)[1].double(),
        recorded.survival,
    )


def _before_click(slates: Tensor, clicks: Tensor) -> Tensor:
    """[B, T]: log P(x_t) from the log-probabilities [B, T] of each slate and of each click."""
    return slates.cumsum(1) + torch.nn.functional.pad(clicks[:, :-1], (1, 0)).cumsum(1)


def _summary(generated: _Laws, policy: _Laws, data: _Laws, learnt: float | None, lambda_1: float) -> Diagnostics:
    """Sums over the sessions of each law, sum_t E_{x_t ~ law}[...] as a mean over its sessions."""
    lambda_2 = 1 - lambda_1
    difference = policy.generated_reward - policy.reward
    weight = lambda_1 / ((policy.log_pi - policy.log_g).exp() + (policy.log_pi - policy.log_data).exp())
    optimal = torch.sigmoid(generated.log_data - generated.log_g)
    value, value_data = _total(policy, policy.reward), _total(data, data.data_reward)
    value_generated = _total(generated, generated.generated_reward)
    value_optimal = _total(generated, optimal * generated.generated_reward)

    # |1 - p / q| under q in two parts, each bounded: the ratio itself has no finite variance.
    near = _excess(generated, generated.log_pi - generated.log_g), _excess(policy, policy.log_g - policy.log_pi)
    far = _excess(data, data.log_pi - data.log_data), _excess(policy, policy.log_data - policy.log_pi)
    own, size = (_by_step(policy, x) for x in (difference, difference.abs()))
    first = _by_step(generated, near[0]) + _by_step(policy, near[1])
    second = _by_step(data, far[0]) + _by_step(policy, far[1])
    alive = [_by_step(law, torch.ones_like(law.reward)) for law in (policy, policy, generated, data, policy)]
    sums = torch.stack([own, size, first, second, _by_step(policy, weight)], 1)
    counts = torch.stack(alive, 1)
    delta, delta_size, delta_1, delta_2, mean_weight = (sums.sum(0) / counts.sum(0)).tolist()

    def bias(rescaled: float) -> float:
        return lambda_1 * rescaled + lambda_2 * value_data - value

    return Diagnostics(
        delta=delta,
        delta_size=delta_size,
        delta_1=delta_1,
        delta_2=delta_2,
        weight=mean_weight,
        value=value,
        value_data=value_data,
        value_generated=value_generated,
        value_optimal=value_optimal,
        value_learnt=learnt,
        bias_without=bias(value_generated),
        bias_optimal=bias(value_optimal),
        bias_learnt=None if learnt is None else bias(learnt),
        term_delta=_total(policy, weight * difference),
        term_delta_2=lambda_2 * (value_data - value),
        term_weight=-_total(policy, (lambda_1 - weight) * policy.reward),
        steps=sums / counts,
    )


def _total(laws: _Laws, values: Tensor) -> float:
    """sum_t E[values] for values [B, T] at sessions drawn from one law."""
    return float(_by_step(laws, values).sum())


def _by_step(laws: _Laws, values: Tensor) -> Tensor:
    """[T] float64: E[values] of each step, 0 for sessions that have ended."""
    return torch.where(laws.mask, values, 0.0).sum(0) / len(values)


def _excess(laws: _Laws, log_ratio: Tensor) -> Tensor:
    """[B, T]: max(0, 1 - ratio)."""
    return torch.where(laws.mask, -torch.expm1(log_ratio.clamp(max=0.0)), 0.0)


def agent_slate_log_probs(agent: Agent, log: Trajectories) -> Tensor:
    """[B, T] float64: log pi(a_t | s_t) of each counted step's slate as a set; 0 after the end."""
    counted = log.step_mask()
    agent.eval()
    states, slates = agent.encoder.at_steps(log), log.slates[counted]
    parts = [
        slate_set_log_prob(agent.logits(some), shown)
        for some, shown in zip(states.split(SLATES), slates.split(SLATES), strict=True)
    ]
    return spread(torch.cat(parts), counted)


def slate_set_log_prob(logits: Tensor, slates: Tensor) -> Tensor:
    """log-probability that K draws without replacement from a softmax give these items in any order.

    Exponential arrivals with rates p_i: the slate is the set that arrives before all others, whose first arrival has rate
    R = sum of p_j outside it. So P = int_0^inf R e^(-R x) prod_{i in slate} (1 - e^(-p_i x)) dx; with x = e^y / R the
    integrand is smooth and decays on both sides, so that the trapezoid rule converges faster than any power of its step.

    Args:
        logits: [R, C] float. slates: [R, K] int64, distinct items.

    Returns:
        [R] float64, accurate to about 1e-9 for probabilities down to 1e-150.
    """
    logits = logits.double()
    if slates.shape[1] == logits.shape[1]:
        return torch.zeros(len(logits), dtype=torch.float64)
    outside = logits.scatter(1, slates, -torch.inf).logsumexp(1, keepdim=True)
    rates = (logits.gather(1, slates) - outside).exp()  # [R, K], p_i / R
    first, last, step = LOG_NODES
    nodes = torch.arange(first, last, step, dtype=torch.float64)  # y
    arrived = -torch.expm1(-rates[:, :, None] * nodes.exp())  # [R, K, nodes]
    return (arrived.prod(1).log() - nodes.exp() + nodes).logsumexp(1) + math.log(step)
