"""What a run learnt, loaded from its final checkpoint or taken from the run itself, and how good it is."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from irecgan_ext.data.packed_log import PreparedLog
from irecgan_ext.errors import UsageError
from irecgan_ext.evaluation.online import Results, evaluate_methods, logged
from irecgan_ext.evaluation.rerank import Results as RerankResults
from irecgan_ext.evaluation.rerank import rerank
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.models.user_model import RewardMode
from irecgan_ext.training.checkpoint import load_checkpoint, unflatten_state
from irecgan_ext.training.config import MethodName, TrainConfig
from irecgan_ext.training.methods import METHODS
from irecgan_ext.training.run import Models, Run, final_path
from irecgan_ext.training.source import Source
from irecgan_ext.types import Trajectories


@dataclass(frozen=True)
class Outcome:
    """The models that a run ends with.

    Attributes:
        models: user model, agent and discriminator at the end (running averages where the method keeps them); parts that
            the method does not train are as they were made.
        learnt: what the method leaves for evaluation (`Method.policies`), by the name of its row in the results.
    """

    models: Models
    learnt: dict[str, UserModel | Agent]

    @classmethod
    def of(cls, run: Run) -> Outcome:
        """From a run that has just finished."""
        return cls.build(run.config.method, run.average, run.snapshots)

    @classmethod
    def load(
        cls,
        directory: Path,
        config: TrainConfig,
        items: int,
        reward: RewardMode,
        device: torch.device | str = "cpu",
    ) -> Outcome:
        """From the final checkpoint in a run's directory, on `device`.

        Raises:
            UsageError: the run has not finished. CheckpointError: the checkpoint is damaged.
        """
        path = final_path(directory)
        if not path.exists():
            raise UsageError(f"{directory}: the run has not finished; go on with --resume {directory}")
        state = unflatten_state(*load_checkpoint(path))
        trained = state["average"]["agent.head.bias"].shape[0]
        if trained != items:
            raise UsageError(f"{path}: was trained on a catalogue of {trained} items, the data has {items}")
        models = Models(items, config.model, reward)
        models.load_state_dict(state["average"])
        return cls.build(config.method, models.to(device), state["snapshots"])

    @classmethod
    def build(cls, method: MethodName, models: Models, snapshots: dict[str, dict[str, Tensor]]) -> Outcome:
        """From the final models and the snapshots of earlier ones."""
        learnt: dict[str, UserModel | Agent] = {}
        for name, kept in METHODS[method].policies.items():
            model: UserModel | Agent = getattr(models, kept.part)
            if kept.snapshot is not None:
                model = copy.deepcopy(model)
                model.load_state_dict(snapshots[kept.snapshot])
            learnt[name] = model
        return cls(models, learnt)


def evaluate_outcome(outcome: Outcome, source: Source, config: TrainConfig) -> Results:
    """The online test of what the run learnt; only the log's own reward where its users are not known."""
    if source.mdp is None:
        return {"log": logged(source.log)}
    assert isinstance(source.log, Trajectories)  # simulated
    return evaluate_methods(
        source.mdp,
        source.log,
        source.logging_policy,
        outcome.learnt,
        sessions=config.evaluation.sessions,
        seed=config.evaluation.seed,
        max_steps=config.evaluation.max_steps,
    )


def rerank_outcome(outcome: Outcome, log: PreparedLog) -> RerankResults:
    """How what the run learnt reranks the lists of a prepared log's test sessions."""
    return rerank(outcome.learnt, log.train.sessions, log.test.sessions, log.test.positions, log.items)
