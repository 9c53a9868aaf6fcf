"""The simulated online test: every method and mark in front of the same users (section 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irecgan_ext.evaluation.coverage import NORMAL_95, PolicyResult, evaluate_policy
from irecgan_ext.evaluation.policies import learnt_policy
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.packed import Sessions
from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.simulators.optimal import BeliefPolicy, OraclePolicy, counts_policy
from irecgan_ext.simulators.policies import Policy, RandomPolicy
from irecgan_ext.types import Trajectories

Results = dict[str, dict[str, Any]]

MARKS = {
    "random": "random",
    "log": "logging policy",
    "counts": "counts",
    "belief": "belief",
    "oracle": "oracle",
}
"""Titles of the rows that need no learning."""


def evaluate_methods(
    mdp: MDP,
    log: Trajectories,
    logging_policy: Policy | None,
    learnt: Mapping[str, UserModel | Agent],
    *,
    sessions: int,
    seed: int,
    max_steps: int | None = None,
) -> Results:
    """Reward and coverage of what was learnt, beside policies that know more or learn nothing.

    Args:
        mdp: the users.
        log: what everything learnt from; `counts` counts it.
        logging_policy: who made the log; without it the row `log` has the log's own mean reward and no coverage.
        learnt: models by the name of their row; a user model recommends its most clickable items.
        sessions: sessions per policy, with common random numbers.
        seed: of those sessions.
        max_steps: cap on a session; None runs each to its end.

    Returns:
        By method: {"reward": {"mean", "ci95"}, "coverage": {"1", ..., "10"}}, and for learnt methods "sampled": the same two
        for slates drawn as in training. Greedy, i.e. the K best items, otherwise.
    """
    size = log.slate_size

    def run(policy: Policy) -> dict[str, Any]:
        return _row(evaluate_policy(mdp, policy, sessions, slate_size=size, seed=seed, max_steps=max_steps))

    def both(model: UserModel | Agent) -> dict[str, Any]:
        return {**run(learnt_policy(model, size)), "sampled": run(learnt_policy(model, size, sample=True))}

    return {
        "random": run(RandomPolicy(mdp.items, size)),
        "log": logged(log) if logging_policy is None else run(logging_policy),
        "counts": run(counts_policy(log, mdp.items, size)),
        **{name: both(model) for name, model in learnt.items()},
        "belief": run(BeliefPolicy(mdp, size)),
        "oracle": run(OraclePolicy(mdp, size)),
    }


def logged(log: Sessions) -> dict[str, Any]:
    """Mean reward of the log itself."""
    returns = log.returns().double()
    spread = float(returns.std()) / len(log) ** 0.5 if len(log) > 1 else float("inf")
    return {"reward": {"mean": float(returns.mean()), "ci95": NORMAL_95 * spread}}


def table(results: Results, titles: Mapping[str, str]) -> str:
    """The results as text: greedy first, then sampled where a method can sample; coverage as shares of 1.

    Args:
        results: rows by name.
        titles: of the learnt rows, by name.
    """
    titles = {**MARKS, **titles}
    lines = [
        f"{'':18}{'greedy: the K best items':^34}{'sampled as in training':^34}",
        f"{'method':18}" + f"{'reward':>8}{'+- 95%':>8}{'cov@1':>9}{'cov@10':>9}" * 2,
    ]
    for method, row in results.items():
        lines.append(f"{titles[method]:18}{_cells(row)}{_cells(row.get('sampled'))}".rstrip())
    return "\n".join(lines)


def _row(result: PolicyResult) -> dict[str, Any]:
    coverage = {str(r): value for r, value in enumerate(result.coverage, 1)}
    return {"reward": {"mean": result.reward, "ci95": result.ci95}, "coverage": coverage}


def _cells(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    text = f"{row['reward']['mean']:8.3f}{row['reward']['ci95']:8.3f}"
    coverage = row.get("coverage")
    if coverage is None:
        return text + " " * 18
    return text + f"{coverage['1']:9.3f}{coverage[max(coverage, key=int)]:9.3f}"
