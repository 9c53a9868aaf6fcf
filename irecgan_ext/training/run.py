"""A training run: models, optimisers and counters, and how its units of work are saved and taken up again.

Every unit (an epoch of a phase) draws all its randomness from (seed, phase, index), so a run that was killed and resumed
repeats the lost unit exactly and ends with the same weights.
"""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from irecgan_ext.errors import Interrupted, UserError
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.models.user_model import RewardMode
from irecgan_ext.packed import Sessions
from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.training.checkpoint import (
    checkpoint_path,
    flatten_state,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    unflatten_state,
)
from irecgan_ext.training.config import ModelConfig, TrainConfig
from irecgan_ext.training.interrupt import deferred_interrupt
from irecgan_ext.training.metrics import MetricsWriter
from irecgan_ext.training.progress import Progress
from irecgan_ext.types import Trajectories

MAX_GRADIENT_NORM = 5.0
LONGEST_SESSION = 65_535  # the rollout's own bound

M = TypeVar("M", bound=nn.Module)


class Diverged(UserError):
    """A loss or its gradient is not finite."""


class Models(nn.Module):
    """User model, agent and discriminator of one run."""

    def __init__(self, items: int, config: ModelConfig, reward: RewardMode) -> None:
        super().__init__()
        sizes = (items, config.embedding, config.hidden, config.layers, config.cell)
        self.user = UserModel(*sizes, dropout=config.user_dropout, reward=reward)
        self.agent = Agent(*sizes, dropout=config.agent_dropout, history_dropout=config.history_dropout)
        self.discriminator = Discriminator(*sizes, reward=reward)


@dataclass
class Unit:
    """One unit of work: its own generator, on the CPU whatever the run's device, and the values that it reports."""

    phase: str
    index: int
    generator: torch.Generator
    values: dict[str, float] = field(default_factory=dict)


class Run:
    """State of a training run, and the loop that saves it.

    Args:
        config: the resolved configuration.
        directory: where checkpoints and metrics go.
        train, valid: logged sessions to learn from, and to stop on.
        items: C.
        reward: "survival" or "binary".
        resume: go on from the latest checkpoint in `directory`.
        mdp: the simulated users, for methods that meet them in training.

    Attributes:
        models: trained in place.
        average: running average of the models' weights (adversarial phase); what generates and what is kept.
        modules: what a method trains beside the three models, by name; see `module`.
        snapshots: state dicts by name: "user" and "agent", the pre-trained models, and their best epochs so far.
        gathered: sessions with the simulator so far, in place of `train` once there are any.
        scalars: numbers that must survive a resumption (best losses, patience).
    """

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        train: Sessions,
        valid: Sessions,
        items: int,
        reward: RewardMode,
        device: torch.device,
        resume: bool = False,
        mdp: MDP | None = None,
    ) -> None:
        self.config = config
        self.mdp = mdp
        self.directory = directory
        self.train: Sessions = train.to(device)
        self.valid = valid.to(device)
        self.items = items
        self.device = device
        torch.manual_seed(self._entropy("weights", 0))
        self.models = Models(items, config.model, reward).to(device)
        self.average = copy.deepcopy(self.models).requires_grad_(False)
        self.modules: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.snapshots: dict[str, dict[str, Tensor]] = {}
        self.gathered: Trajectories | None = None
        self.scalars: dict[str, float] = {}
        self.done: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.seconds_here = 0.0  # of this process, those before a resumption left out
        self._module_states: dict[str, dict[str, Tensor]] = {}
        self._optimiser_states: dict[str, Any] = {}
        self._interrupted = False
        self._saved_at = time.monotonic()
        self.checkpoint: Path | None = None
        if resume:
            self._restore()
        self.metrics = MetricsWriter(directory, self.step if resume else None)

    @property
    def max_steps(self) -> int:
        """Cap on a generated session: the configured one, or twice the mean logged length."""
        twice = math.ceil(2 * self.train.lengths.double().mean().item())
        return self.config.adversarial.max_steps or min(twice, LONGEST_SESSION)

    @property
    def step(self) -> int:
        """Units finished in the whole run."""
        return sum(self.done.values())

    def module(self, name: str, make: Callable[[], M]) -> M:
        """The module `name` that a method trains beside the three models, made or restored on first use.

        Its first weights depend on the run's seed and on `name`, not on when it is made.
        """
        if name not in self.modules:
            with torch.random.fork_rng(devices=[]):  # modules are made on the CPU
                torch.default_generator.manual_seed(self._entropy(f"weights of {name}", 0))
                made = make().to(self.device)
            if name in self._module_states:
                made.load_state_dict(self._module_states.pop(name))
            self.modules[name] = made
        found: Any = self.modules[name]
        return found

    def optimiser(self, name: str, module: nn.Module, learning_rate: float, **options: Any) -> torch.optim.Optimizer:
        """The AdamW optimiser `name` of `module`, made or restored on first use."""
        if name not in self.optimisers:
            optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, fused=True, **options)
            if name in self._optimiser_states:
                optimiser.load_state_dict(self._optimiser_states.pop(name))
                for group in optimiser.param_groups:
                    group["fused"] = True  # a checkpoint brings its own setting
            self.optimisers[name] = optimiser
        return self.optimisers[name]

    def descend(self, optimiser: torch.optim.Optimizer, loss: Tensor, what: str, rate: float | None = None) -> float:
        """One clipped gradient step on `loss`, of step size `rate` (default: the optimiser's); returns the loss.

        Raises:
            Diverged: the loss or its gradient is not finite; the weights are as they were. Names the step, the loss and the
                last good checkpoint.
        """
        value = loss.item()
        if not math.isfinite(value):
            raise self.diverged(f"{what} is {value}")
        if rate is not None:
            for group in optimiser.param_groups:
                group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM).item()
        if not math.isfinite(norm):
            raise self.diverged(f"the gradient of {what} has norm {norm}")
        optimiser.step()
        return value

    def units(self, phase: str, count: int, unit: str = "epoch") -> Iterator[Unit]:
        """The units of `phase` that are still to do, seeded before and recorded and saved after each.

        Raises:
            Interrupted: the user pressed Ctrl-C during a unit; the state after that unit is saved.
        """
        done = self.done.setdefault(phase, 0)
        if done >= count or f"{phase}.stopped" in self.scalars:
            return
        title = phase.replace("_", " ")
        with (
            deferred_interrupt(self._note_interrupt),
            Progress(title, count, unit=unit, done=done, quiet=self.config.quiet) as progress,
        ):
            for index in range(done, count):
                started = time.monotonic()
                entropy = self._entropy(phase, index)
                torch.manual_seed(entropy)
                work = Unit(phase, index, torch.Generator().manual_seed(entropy))
                yield work
                self.done[phase] = index + 1
                self.spend(phase, time.monotonic() - started)
                self.metrics.write(phase, index, self.step, work.values)
                progress.update(work.values)
                stopped = f"{phase}.stopped" in self.scalars
                last = stopped or index + 1 == count
                if last or self._interrupted or time.monotonic() - self._saved_at >= self.config.checkpoint_seconds:
                    self.save()
                if self._interrupted:
                    raise Interrupted(f"interrupted at step {self.step}; go on with --resume {self.directory}")
                if stopped:
                    return

    def gather(self, sessions: Trajectories) -> None:
        """Add sessions with the simulator to what there is to learn from; they take the place of the log."""
        parts = [sessions.to(self.device)] if self.gathered is None else [self.gathered, sessions.to(self.device)]
        self.train = self.gathered = Trajectories.cat(parts)

    def spend(self, phase: str, seconds: float) -> None:
        """Book running time of this process on a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self.seconds_here += seconds

    def stop(self, phase: str) -> None:
        """Make the current unit of `phase` its last."""
        self.scalars[f"{phase}.stopped"] = 1.0

    def first_time(self, name: str) -> bool:
        """True once per run, however often it is resumed."""
        if f"{name}.passed" in self.scalars:
            return False
        self.scalars[f"{name}.passed"] = 1.0
        return True

    def begin_average(self) -> None:
        """Start the running average at the pre-trained weights."""
        if self.first_time("average"):
            self.average.load_state_dict(self.models.state_dict())

    @torch.no_grad()
    def update_average(self, name: str, decay: float) -> None:
        """average <- decay average + (1 - decay) weights, for the model `name`."""
        weights = getattr(self.models, name).parameters()
        for mean, value in zip(getattr(self.average, name).parameters(), weights, strict=True):
            mean.lerp_(value, 1 - decay)

    def improve(self, phase: str, name: str, module: nn.Module, loss: float, patience: int) -> None:
        """Keep `module` as snapshot `name` if `loss` (held out) is the best so far; stop after `patience` worse units."""
        best = self.scalars.get(f"{phase}.best", math.inf)
        if loss < best:
            self.scalars[f"{phase}.best"] = loss
            self.scalars[f"{phase}.waited"] = 0.0
            self.snapshots[name] = {key: value.detach().clone() for key, value in module.state_dict().items()}
            return
        waited = self.scalars.get(f"{phase}.waited", 0.0) + 1
        self.scalars[f"{phase}.waited"] = waited
        if waited >= patience:
            self.stop(phase)

    def save(self, name: int | str | None = None) -> None:
        """Write a checkpoint: numbered by the step, or named."""
        optimisers = {key: value.state_dict() for key, value in self.optimisers.items()}
        state = {
            "models": self.models.state_dict(),
            "average": self.average.state_dict(),
            "modules": {**self._module_states, **{key: value.state_dict() for key, value in self.modules.items()}},
            "optimisers": {**self._optimiser_states, **optimisers},
            "snapshots": self.snapshots,
            "gathered": None if self.gathered is None else vars(self.gathered),
            "scalars": self.scalars,
            "done": self.done,
            "seconds": self.seconds,
        }
        tensors, rest = flatten_state(state)
        self.checkpoint = save_checkpoint(
            self.directory / "checkpoints", self.step if name is None else name, tensors, rest
        )
        self._saved_at = time.monotonic()

    def close(self) -> None:
        self.metrics.close()

    def _restore(self) -> None:
        folder = self.directory / "checkpoints"
        path = latest_checkpoint(folder)
        if path is None:
            return
        state = unflatten_state(*load_checkpoint(path))
        self.models.load_state_dict(state["models"])
        self.average.load_state_dict(state["average"])
        self._module_states, self._optimiser_states = state["modules"], state["optimisers"]
        self.snapshots = {name: {k: v.to(self.device) for k, v in s.items()} for name, s in state["snapshots"].items()}
        if state["gathered"] is not None:
            self.train = self.gathered = Trajectories(**state["gathered"]).to(self.device)
        self.scalars, self.done, self.seconds = state["scalars"], state["done"], state["seconds"]
        self.checkpoint = path

    def _note_interrupt(self) -> bool:
        first, self._interrupted = not self._interrupted, True
        return first

    def diverged(self, problem: str) -> Diverged:
        saved = self.checkpoint or "none was written yet"
        return Diverged(f"step {self.step}: {problem}; last good checkpoint: {saved}")

    def _entropy(self, phase: str, index: int) -> int:
        sequence = np.random.SeedSequence([self.config.seed, zlib.crc32(phase.encode()), index])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def final_path(directory: Path) -> Path:
    """The checkpoint that a finished run leaves."""
    return checkpoint_path(directory / "checkpoints", "final")
