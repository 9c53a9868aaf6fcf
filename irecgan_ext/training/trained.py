"""The agent of a finished run, for the commands that put it to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from irecgan_ext.errors import UsageError
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.training.outcome import Outcome
from irecgan_ext.training.source import DATA_DIRECTORY, Source, reopen_source
from irecgan_ext.training.summary import read_config
from irecgan_ext.types import BOS


@dataclass(frozen=True)
class Trained:
    """An agent and what belongs to it.

    Attributes:
        name: of the agent among the run's policies (`irecgan`, `pg`, ...). agent: in evaluation mode, on the CPU.
        user: the run's user model as learnt from the log alone, in evaluation mode; None where the run has none.
        config: of the run. source: its log and users.
    """

    name: str
    agent: Agent
    user: UserModel | None
    config: TrainConfig
    source: Source

    @property
    def items(self) -> int:
        """C."""
        return self.agent.encoder.items

    @property
    def starts_from_item(self) -> bool:
        """Whether the sessions that the agent learnt from start from a clicked item rather than `BOS`."""
        return bool((self.source.log.start != BOS).double().mean() > 0.5)


def load_trained(directory: Path, name: str | None = None) -> Trained:
    """Load an agent of the finished run in `directory`.

    Args:
        name: which of the run's policies; None for that of the run's method.

    Raises:
        UserError: the directory holds no finished run, its files are damaged, or it has no such agent.
    """
    config = read_config(directory)
    source = reopen_source(directory)
    outcome = Outcome.load(directory, config, source.items, source.reward_mode())
    name = config.method if name is None else name
    agent = outcome.learnt.get(name)
    if not isinstance(agent, Agent):
        agents = [row for row, model in outcome.learnt.items() if isinstance(model, Agent)]
        raise UsageError(
            f"--agent must be an agent of the run in {directory} ({', '.join(agents) or 'none'}), got {name}"
        )
    user = outcome.learnt.get("lstm")
    return Trained(name, agent.eval(), user.eval() if isinstance(user, UserModel) else None, config, source)


def item_id_places(directory: Path, config: TrainConfig) -> tuple[Path, ...]:
    """Where the map of item ids of the run in `directory` may be: with its copy of the data, with itself, with its data."""
    return directory / DATA_DIRECTORY, directory, Path(config.data)
