"""Where a run's log comes from, and the users behind it where they are simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from irecgan_ext.data.authors import read_authors_mdp
from irecgan_ext.data.packed_log import PreparedLog, copy_prepared, is_prepared, read_prepared
from irecgan_ext.data.sessions import load_log, write_sessions
from irecgan_ext.errors import UsageError
from irecgan_ext.models.user_model import RewardMode
from irecgan_ext.packed import Sessions
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.policies import Policy, make_policy
from irecgan_ext.training.batches import split
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.training.summary import read_config
from irecgan_ext.types import Trajectories

LOG_FILE = "log.parquet"
DATA_DIRECTORY = "data"  # a copy of the prepared log
MDP_FILE = "mdp.safetensors"


@dataclass(frozen=True)
class Source:
    """A log, and what is known of where it comes from.

    Attributes:
        log: logged sessions.
        items: C.
        metadata: what the log says about itself.
        mdp: the simulated users, or None where the log is of real ones or does not name them.
        prepared: the prepared directory whose training sessions `log` is; None where the log is one file.
    """

    log: Sessions
    items: int
    metadata: dict[str, Any]
    mdp: MDP | None
    prepared: PreparedLog | None = None

    def parts(self, share: float, generator: torch.Generator) -> tuple[Sessions, Sessions]:
        """Sessions to learn from and to stop on: a prepared log's own split, or `share` of the log held out at random.

        Raises:
            ValueError: fewer than two sessions.
        """
        if self.prepared is not None:
            return self.log, self.prepared.valid.sessions
        assert isinstance(self.log, Trajectories)
        return split(self.log, share, generator)

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
        """Keep log and users with the run, which can then be resumed and evaluated without its sources. The log's propensities,
        which training does not read, are not kept."""
        if self.prepared is not None:
            return copy_prepared(self.prepared.directory, directory / DATA_DIRECTORY)
        assert isinstance(self.log, Trajectories)
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
    if is_prepared(config.data):
        if config.mdp is not None:
            raise UsageError("--mdp: a prepared log has real users; drop the flag")
        return _prepared(Path(config.data), config.slate_size)
    log = load_log(config.data)
    mdp = find_users(config.mdp, log.items, log.metadata)
    return Source(log.trajectories, mdp.items if mdp is not None else log.items, log.metadata, mdp)


def _prepared(directory: Path, slate_size: int) -> Source:
    """A prepared directory, beside whose sessions slates of `slate_size` items are generated."""
    log = read_prepared(directory)
    if not 1 <= slate_size <= log.items:
        raise UsageError(f"--slate-size must be in 1..C (C = {log.items}), got {slate_size}")
    train = replace(log.train.sessions, slate_size=slate_size)
    return Source(train, log.items, log.train.metadata, None, log)


def reopen_source(directory: Path) -> Source:
    """What `Source.save` kept in a run's directory."""
    if is_prepared(directory / DATA_DIRECTORY):
        return _prepared(directory / DATA_DIRECTORY, read_config(directory).slate_size)
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
