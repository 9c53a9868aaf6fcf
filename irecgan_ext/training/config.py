"""What a training run is made of: typed options, their defaults and the presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from irecgan_ext.errors import UsageError

Preset = Literal["quick", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True)
class ModelConfig:
    """Size of user model, agent and discriminator."""

    cell: Literal["gru", "lstm"] = "gru"
    """Recurrent cell."""
    embedding: int = 32
    """Width of the item embeddings (E)."""
    hidden: int = 64
    """Width of the recurrent states (H)."""
    layers: int = 1
    """Recurrent layers (L)."""
    dropout: float = 0.5
    """Dropout of user model and agent in training."""


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training of one model on the log, stopped on held-out sessions."""

    learning_rate: float
    """Adam's step size."""
    epochs: int
    """At most so many passes over the log."""
    patience: int
    """Stop after so many epochs without a better held-out loss; the best epoch is kept."""
    batch: int
    """Sessions per update."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Training of the discriminator, Eq (5)."""

    learning_rate: float = 1e-3
    """Adam's step size."""
    pretrain_epochs: int = 5
    """Passes over the first generated and logged sessions."""
    batch: int = 64
    """Logged and generated sessions each, per update."""


@dataclass(frozen=True)
class AdversarialConfig:
    """Lines 7 to 20 of Algorithm 1."""

    epochs: int = 10
    """Rounds of r-steps and d-steps."""
    r_steps: int = 6
    """Updates of user model and agent per round."""
    d_steps: int = 1
    """Updates of the discriminator per round."""
    d_epochs: int = 2
    """Passes over the sessions of one d-step (i)."""
    generated: int = 256
    """Sessions that agent and user model make per step (m)."""
    logged_ratio: float = 10.0
    """Logged sessions per generated one in an r-step (lambda_2 / lambda_1)."""
    completions: int = 5
    """Monte-Carlo completions per prefix (N)."""
    max_steps: int | None = None
    """Cap on a generated session's steps; None: twice the mean logged length."""
    user_learning_rate: float = 1e-4
    """Adam's step size for the user model."""
    agent_learning_rate: float = 3e-3
    """Adam's step size for the agent."""
    user_batch: int = 256
    """Logged sessions per update of the user model; the generated ones are spread over these updates."""
    gamma: float = 0.9
    """Discount of the agent's returns."""
    lambda_r: float = 3.0
    """Weight of the rewards in the agent's returns."""
    lambda_p: float = 1.0
    """Weight of the reward term in the user model's likelihood."""
    log_weight: float = 1.0
    """Weight of logged sessions in the agent's update, beside 1 for generated ones. The paper's is 1."""
    normalise_q: bool = False
    """Divide q_D by its mean, so that D says which generated steps to trust more, not how much all of them count."""
    slate_correction: bool = False
    """Use the log-probability that the clicked item is among K draws in place of its log pi (Chen et al. 2019)."""
    average: float = 0.0
    """Decay of the running average of weights that is kept as the result; 0 keeps the last weights."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The online test at the end, in the simulator."""

    sessions: int = 20_000
    """Sessions per policy; all policies face the same simulated users."""
    seed: int = 1_000_003
    """Seed of the simulated users, apart from everything that training saw."""


@dataclass(frozen=True)
class TrainConfig:
    """Train IRecGAN: a recommendation policy from logged sessions, by adversarial model-based reinforcement learning.

    Without a flag: the quick preset on a log of the built-in simulator.
    """

    preset: Preset = "quick"
    """quick: a small GRU, about three minutes on two cores. paper: the paper's sizes (LSTM, 2 x 512), hours."""
    data: str = "simulator"
    """Where the log comes from: simulator, a Parquet file as irecgan_ext.simulate writes it (- for standard input), or an
    authors' log_*.txt."""
    mdp: Path | None = None
    """The simulated users behind the log, if it is a file: a file of irecgan_ext.simulate --mdp, or a directory with the
    authors' score.txt and prob.txt. Needed for the online test of logs that do not name their users."""
    log_policy: Literal["random", "max", "mix"] = "random"
    """Logging policy, with data simulator."""
    log_sessions: int = 5000
    """Sessions to log, with data simulator."""
    transition_temperature: float = 1.0
    """Of the simulator's users: 1 is the paper's; smaller makes the click history informative."""
    slate_size: int = 10
    """Items per recommendation (K), with data simulator; a file's own otherwise."""
    out: Path = Path("runs/irecgan")
    """Directory for config, metrics, checkpoints, plot and summary."""
    resume: Path | None = None
    """Go on with the run in this directory, with its own configuration."""
    seed: int = 0
    """Seed of everything: users, log, weights, batches, samples."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. auto: the fastest device that has the native kernels."""
    threads: int | None = None
    """CPU threads; None: as torch chooses."""
    validation_share: float = 0.1
    """Share of the log held out for early stopping."""
    checkpoint_seconds: float = 20.0
    """Least time between two checkpoints; 0 saves after every unit of work."""
    quiet: bool = False
    """No progress on standard error."""
    model: ModelConfig = field(default_factory=ModelConfig)
    user: PretrainConfig = field(default_factory=lambda: PretrainConfig(3e-3, 60, 6, 128, 1e-4))
    agent: PretrainConfig = field(default_factory=lambda: PretrainConfig(3e-3, 40, 6, 128, 1e-4))
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def check(self) -> None:
        """Raise UsageError, naming the flag, for a value that its type allows but training cannot use."""
        positive = {
            "log-sessions": self.log_sessions,
            "slate-size": self.slate_size,
            "user.batch": self.user.batch,
            "agent.batch": self.agent.batch,
            "discriminator.batch": self.discriminator.batch,
            "adversarial.generated": self.adversarial.generated,
            "adversarial.user-batch": self.adversarial.user_batch,
            "adversarial.completions": self.adversarial.completions,
            "evaluation.sessions": self.evaluation.sessions,
            "user.learning-rate": self.user.learning_rate,
            "agent.learning-rate": self.agent.learning_rate,
            "discriminator.learning-rate": self.discriminator.learning_rate,
        }
        for flag, value in positive.items():
            if not value > 0:
                raise UsageError(f"--{flag} must be positive, got {value}")
        if self.seed < 0:
            raise UsageError(f"--seed must not be negative, got {self.seed}")
        if self.log_sessions < 10 and self.data == "simulator":
            raise UsageError(f"--log-sessions must be at least 10, got {self.log_sessions}")
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation-share must be in (0, 1), got {self.validation_share}")
        if not 0 <= self.adversarial.gamma <= 1:
            raise UsageError(f"--adversarial.gamma must be in [0, 1], got {self.adversarial.gamma}")
        if self.adversarial.max_steps is not None and not 1 <= self.adversarial.max_steps < 65536:
            raise UsageError(f"--adversarial.max-steps must be in 1..65535, got {self.adversarial.max_steps}")


def preset(name: Preset) -> TrainConfig:
    """The configuration that `--preset name` starts from."""
    quick = TrainConfig()
    if name == "quick":
        return quick
    return replace(
        quick,
        preset="paper",
        out=Path("runs/paper"),
        model=ModelConfig("lstm", 50, 512, 2, 0.2),
        user=PretrainConfig(5e-4, 50, 5, 32),
        agent=PretrainConfig(1e-4, 50, 5, 32),
        discriminator=DiscriminatorConfig(1e-4, 3, 32),
        adversarial=AdversarialConfig(
            epochs=10,
            r_steps=9,
            d_steps=1,
            d_epochs=3,
            generated=200,
            user_learning_rate=5e-4,
            agent_learning_rate=1e-4,
        ),
    )
