"""Where a run's log comes from, and the users behind it where they are simulated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from irecgan_ext.data.authors import read_authors_mdp
from irecgan_ext.data.sessions import load_log, write_sessions
from irecgan_ext.errors import UsageError
from irecgan_ext.models.user_model import RewardMode
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.policies import Policy, make_policy
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.types import Trajectories

LOG_FILE = "log.parquet"
MDP_FILE = "mdp.safetensors"


@dataclass(frozen=True)
class Source:
    """A log, and what is known of where it comes from.

    Attributes:
        log: logged sessions.
        items: C.
        metadata: what the log says about itself.
        mdp: the simulated users, or None where the log is of real ones or does not name them.
    """

    log: Trajectories
    items: int
    metadata: dict[str, Any]
    mdp: MDP | None

    @property
    def logging_policy(self) -> Policy | None:
        """The policy that made the log, ready to run again; None where it is not known."""
        if self.mdp is None:
            return None
        name, temperature = str(self.metadata.get("policy")), float(self.metadata.get("policy_temperature", 1.0))
        return make_policy(name, self.mdp, self.log.slate_size, temperature)

    def reward_mode(self) -> RewardMode:
        """ "survival" if a reward of 1 is the same as a click, as in the simulator; otherwise "binary".

        Raises:
            UsageError: a reward is neither 0 nor 1.
        """
        clicked, rewards = self.log.click_mask(), self.log.rewards
        other = rewards[(rewards != 0) & (rewards != 1)]
        if other.numel():
            raise UsageError(f"--data: rewards must be 0 or 1, got {other[0].item():g}")
        return "survival" if torch.equal(clicked, rewards == 1) else "binary"

    def save(self, directory: Path) -> None:
        """Keep log and users with the run, which can then be resumed and evaluated without its sources."""
        write_sessions(directory / LOG_FILE, self.log, self.items, self.metadata)
        if self.mdp is not None:
            self.mdp.save(directory / MDP_FILE)


def open_source(config: TrainConfig) -> Source:
    """Draw or read the log that `config` names.

    Raises:
        LogError: a log file breaks a rule.
        UsageError: log and MDP do not fit together.
    """
    if config.data == "simulator":
        return _simulated(config)
    log = load_log(config.data)
    mdp = find_users(config.mdp, log.items, log.metadata)
    return Source(log.trajectories, mdp.items if mdp is not None else log.items, log.metadata, mdp)


def reopen_source(directory: Path) -> Source:
    """What `Source.save` kept in a run's directory."""
    log = load_log(directory / LOG_FILE)
    path = directory / MDP_FILE
    return Source(log.trajectories, log.items, log.metadata, MDP.load(path) if path.exists() else None)


def _simulated(config: TrainConfig) -> Source:
    if config.mdp is not None:
        mdp = read_mdp(config.mdp)
    else:
        mdp = MDP.random(transition_temperature=config.transition_temperature, seed=config.seed)
    policy = make_policy(config.log_policy, mdp, config.slate_size)
    assert policy is not None
    log = simulate(mdp, policy, config.log_sessions, slate_size=config.slate_size, seed=config.seed)
    return Source(log, mdp.items, {"policy": config.log_policy, "seed": config.seed}, mdp)


def read_mdp(path: Path) -> MDP:
    """An MDP from a saved file, or from a directory with the authors' score.txt and prob.txt."""
    return MDP(*read_authors_mdp(path)) if path.is_dir() else MDP.load(path)


def find_users(path: Path | None, items: int, metadata: dict[str, Any]) -> MDP | None:
    """The users named on the command line, or else those that a simulated log says were drawn."""
    if path is not None:
        mdp = read_mdp(path)
        if mdp.items < items:
            raise UsageError(f"--mdp: {path} has {mdp.items} items, the log has {items}")
        return mdp
    drawn = metadata.get("mdp")
    if not isinstance(drawn, dict):
        return None
    if "file" in drawn and Path(drawn["file"]).exists():
        return find_users(Path(drawn["file"]), items, {})
    if not {"states", "transition_temperature", "seed"} <= drawn.keys():
        return None
    return MDP.random(drawn["states"], items, drawn["transition_temperature"], drawn["seed"])
