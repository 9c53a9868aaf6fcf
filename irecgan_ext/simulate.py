"""Write a log of simulated sessions: `python -m irecgan_ext.simulate --out log.parquet`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from irecgan_ext.cli import run_command
from irecgan_ext.data.authors import read_authors_mdp
from irecgan_ext.data.sessions import write_sessions
from irecgan_ext.errors import UsageError, checking_arguments
from irecgan_ext.files import reason
from irecgan_ext.simulators.logged import simulate_logged
from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.simulators.policies import make_policy
from irecgan_ext.types import Trajectories


@dataclass(frozen=True)
class SimulateOptions:
    """Simulate users in front of a logging policy and write their sessions as a Parquet log.

    A simulated user has a hidden state. The items of the slate compete in proportion to their rewards in that state;
    the winner is clicked with a probability that equals its reward, and the user moves to another state. Otherwise the
    session ends. The same options give the same file, byte for byte.
    """

    out: str
    """Log to write, or - for standard output."""
    policy: Literal["random", "max", "mix", "softmax"] = "random"
    """Who recommends: random items; max, the best items of the user's true state; mix, half the time the best,
    otherwise items ranked between the top 20% and 50%; softmax, draws without replacement that favour good items, so that
    every slate has a chance and the log can tell the value of other policies."""
    policy_temperature: float = 0.2
    """Of the softmax policy over the rewards of the true state: small is close to max, large to random."""
    sessions: int = 1000
    """Sessions to simulate."""
    slate_size: int = 10
    """Items per recommendation (K)."""
    max_steps: int | None = None
    """Cut sessions after so many steps. None lets each run to its end."""
    propensities: bool = True
    """Log how probable the policy made each slate (columns pscore, pscore_item_position and pscore_cascade), which off-policy
    evaluation needs."""
    seed: int = 0
    """Seed of the sessions, and of the MDP if one is drawn."""
    mdp: Path | None = None
    """The users. A file that exists is used; one that does not is written with the MDP that was drawn, so that other
    logs can use it. A directory is read as the authors' score.txt and prob.txt. None draws an MDP and does not keep
    it."""
    states: int = 10
    """User states of the MDP, if one is drawn."""
    items: int = 50
    """Catalogue items of the MDP (C), if one is drawn."""
    transition_temperature: float = 1.0
    """Of the MDP, if one is drawn: 1 makes the next state close to uniform, as in the paper; smaller values make it
    depend on the click, so that the history is informative."""


def main(options: SimulateOptions) -> None:
    """Simulate, write the log and print a summary.

    Raises:
        UsageError: an option is out of range, or the MDP cannot be read.
        LogError: the log cannot be written.
    """
    with checking_arguments():
        mdp = _users(options)
        policy = make_policy(options.policy, mdp, options.slate_size, options.policy_temperature)
        assert policy is not None  # the options allow known names only
        try:
            trajectories, propensities = simulate_logged(
                mdp,
                policy,
                options.sessions,
                slate_size=options.slate_size,
                seed=options.seed,
                max_steps=options.max_steps,
            )
        except RuntimeError as error:
            raise UsageError(f"{error}; set --max-steps") from error
    if options.mdp is not None and not options.mdp.exists():
        try:
            mdp.save(options.mdp)
        except OSError as error:
            raise UsageError(f"{options.mdp}: cannot write: {reason(error)}") from error
    logged = propensities if options.propensities else None
    write_sessions(options.out, trajectories, mdp.items, _metadata(options, mdp), logged)
    _summarise(options, mdp, trajectories)


def _users(options: SimulateOptions) -> MDP:
    """The MDP that the options name, or else a new one."""
    path = options.mdp
    if path is not None and path.exists():
        return MDP(*read_authors_mdp(path)) if path.is_dir() else MDP.load(path)
    return MDP.random(options.states, options.items, options.transition_temperature, options.seed)


def _metadata(options: SimulateOptions, mdp: MDP) -> dict[str, Any]:
    """What the log notes about how it was made: the same whether the MDP's file was there or is new."""
    origin: dict[str, Any] = {"states": mdp.states}
    if options.mdp is not None:
        origin["file"] = str(options.mdp)
    else:
        origin |= {"transition_temperature": options.transition_temperature, "seed": options.seed}
    policy: dict[str, Any] = {"policy": options.policy}
    if options.policy == "softmax":
        policy["policy_temperature"] = options.policy_temperature
    return {**policy, "seed": options.seed, "max_steps": options.max_steps, "mdp": origin}


def _summarise(options: SimulateOptions, mdp: MDP, log: Trajectories) -> None:
    """Print a table of the log; on standard error if standard output holds the log."""
    returns, lengths = log.returns().double(), log.lengths.double()
    spread = returns.std(correction=0) / len(log) ** 0.5
    rows = {
        "policy": f"{options.policy}, slates of {options.slate_size} from {mdp.items} items",
        "sessions": f"{len(log)} ({int(log.censored.sum())} censored)",
        "steps": f"{int(log.lengths.sum())}",
        "mean reward": f"{returns.mean():.3f} +- {1.96 * spread:.3f} (95%)",
        "mean length": f"{lengths.mean():.3f}",
    }
    stream = sys.stderr if options.out == "-" else sys.stdout
    for name, value in rows.items():
        print(f"{name:<12}{value}", file=stream)


if __name__ == "__main__":
    sys.exit(run_command(main, SimulateOptions, prog="python -m irecgan_ext.simulate"))
