"""What a training run is made of: typed options, their defaults and the presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from irecgan_ext.training.rules import check

Preset = Literal["quick", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
MethodName = Literal[
    "lstm",
    "pg",
    "lstmd",
    "irecgan",
    "pgis",
    "ac",
    "pgu",
    "acu",
    "pg-online",
    "pg-online-offline",
    "lstm-offline",
    "irecgan-online",
]


@dataclass(frozen=True)
class ModelConfig:
    """Size and regularisation of user model, agent and discriminator."""

    cell: Literal["gru", "lstm"] = "gru"
    """Recurrent cell."""
    embedding: int = 32
    """Width of the item embeddings (E)."""
    hidden: int = 64
    """Width of the recurrent states (H)."""
    layers: int = 1
    """Recurrent layers (L)."""
    user_dropout: float = 0.3
    """Dropout of the user model in training."""
    agent_dropout: float = 0.3
    """Dropout of the agent in pre-training; off in its policy gradient, which needs (nearly) the policy that acted."""
    history_dropout: float = 0.0
    """Probability of hiding a past click from the agent in training: what holds for most histories is then learnt first, and
    single clicks, unknown ones among them, mean less."""


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training of one model on the log, stopped on held-out sessions."""

    learning_rate: float
    """AdamW's first step size."""
    epochs: int
    """At most so many passes over the log."""
    patience: int = 4
    """Stop after so many epochs without a better held-out loss; the best epoch is kept."""
    batch: int = 128
    """Sessions per update, at most."""
    min_updates: int = 10
    """Updates per epoch, at least: a small log is cut into smaller batches."""
    decay: float = 0.85
    """Factor on the step size after each epoch."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Training of the discriminator, Eq (5)."""

    learning_rate: float = 1e-3
    """Adam's step size."""
    pretrain_epochs: int = 10
    """Rounds of generating sessions and learning to tell them from logged ones, before the first r-step."""
    batch: int = 64
    """Logged and generated sessions each, per update."""


@dataclass(frozen=True)
class AdversarialConfig:
    """Lines 7 to 20 of Algorithm 1."""

    epochs: int = 6
    """Rounds of r-steps and d-steps."""
    r_steps: int = 5
    """Updates of user model and agent per round."""
    d_steps: int = 1
    """Updates of the discriminator per round."""
    d_epochs: int = 1
    """Passes over the sessions of one d-step (i)."""
    generated: int = 1024
    """Sessions that agent and user model make per step (m)."""
    logged_ratio: float = 2.0
    """Logged sessions per generated one in an r-step (lambda_2 / lambda_1; the paper's is 10)."""
    completions: int = 5
    """Monte-Carlo completions per prefix (N)."""
    max_steps: int | None = 20
    """Cap on a generated session's steps; None: twice the mean logged length. A cap that logged sessions pass lets the
    discriminator tell them apart by length alone."""
    user_learning_rate: float = 1e-4
    """Adam's first step size for the user model."""
    agent_learning_rate: float = 3e-3
    """Adam's first step size for the agent."""
    final_rate: float = 0.1
    """Share of the first step sizes that is left at the last r-step; linear between."""
    user_batch: int = 512
    """Logged sessions per update of the user model; the generated ones are spread over these updates."""
    agent_batch: int = 256
    """Generated sessions per update of the agent, with as many logged ones."""
    gamma: float = 0.9
    """Discount of the agent's returns."""
    lambda_r: float = 3.0
    """Weight of the rewards in the agent's returns."""
    lambda_p: float = 1.0
    """Weight of the reward term in the user model's likelihood."""
    log_weight: float = 0.0
    """Weight of the logged sessions' mean in the agent's update, beside 1 for the generated ones' mean. The paper pools both,
    which weighs the logged ones logged_ratio."""
    log_anchor: float = 20.0
    """A further weight of the logged sessions' mean is this over the number of sessions learnt from: the smaller the log, the
    more the user model errs, and the more the agent (of irecgan, pgu, acu) is held to what the log itself shows. Beyond the
    paper; not of irecgan-online, whose sessions the agent itself gathered."""
    action: Literal["click", "slate"] = "slate"
    """What the agent's gradient takes as its action on generated sessions: the clicked item, as in Eq (10), or the whole
    slate with its exact Plackett-Luce probability and centred returns."""
    discriminator: Literal["learnt", "constant", "random"] = "learnt"
    """Where q_D comes from: learnt, Eq (6); constant, 1 for every step; random, uniform in 0..1 for each generated step.
    The latter two train no discriminator: what is lost without it?"""
    rescale_rewards: bool = True
    """Scale the rewards of generated sessions by q_D, Eq (9). Without it a step's reward is q_D + lambda_r r with action
    click; with action slate q_D has no part in the agent's update."""
    value_baseline: bool = False
    """Subtract a learnt value of the state from the agent's returns on generated sessions, in Eq (10)'s own units. Beyond the
    paper. END steps count too, with their slate's probability, or the baseline would take away the credit of survival."""
    entropy: float = 0.0
    """Weight of the policy's entropy (nats, summed over a session's steps) in the agent's update. Beyond the paper."""
    pessimism: float = 1.0
    """With action slate: how much the agent distrusts what the log rarely shows. In what the user model expects of a slate an
    item's odds of a click are multiplied by (beta / max beta)^pessimism, beta the estimated logging policy. 0: not at all; 1:
    P(shown) P(click | shown), the least that the item can earn when the log chose by what nobody recorded (Manski 1990). A
    log of random slates is left as it is. Beyond the paper."""
    trace: float = 0.0
    """With action slate: how much of what happened after a step counts for its slate, beside what is expected (0 to 1)."""
    centre_q: bool = True
    """In the user model's update: q_D / mean q_D - 1 in place of q_D, a baseline."""
    average: float = 0.95
    """Decay, per update, of the running average of the user model's and the agent's weights. The average generates
    sessions (user model) and is what the run keeps (both). 0 keeps the last weights."""


@dataclass(frozen=True)
class CriticConfig:
    """The critic of ac, acu and adversarial.value-baseline."""

    learning_rate: float = 5e-3
    """Adam's step size."""
    epochs: int = 4
    """Passes over the generated sessions of one r-step."""
    trace: float = 0.9
    """Of the advantages of ac and acu: 0 is the one-step error, 1 the return minus the value."""


@dataclass(frozen=True)
class ImportanceConfig:
    """Importance weights of pgis."""

    cap: float = 10.0
    """Largest weight. Smaller: less variance, more of the logging policy's bias."""


@dataclass(frozen=True)
class OnlineConfig:
    """Methods that learn in turns with the simulator (Figure 3)."""

    iterations: int = 20
    """Turns."""
    sessions: int = 200
    """Online sessions per turn."""
    updates: int = 4
    """Updates of the agent per turn while it plays, each on an equal share of the turn's sessions."""
    epochs: int = 4
    """Passes over all sessions gathered so far, per turn: agent (pg-online-offline) or user model (lstm-offline,
    irecgan-online)."""
    rounds: int = 1
    """Rounds of r-steps and d-steps per turn (irecgan-online)."""
    evaluation_sessions: int = 1000
    """Sessions that measure the greedy policy after each turn; nothing learns from them."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The online test at the end, in the simulator."""

    sessions: int = 20_000
    """Sessions per policy; all policies face the same simulated users."""
    max_steps: int = 10_000
    """Cap on a session, for users who would never leave; their reward is then a lower bound."""
    seed: int = 1_000_003
    """Seed of the simulated users, apart from everything that training saw."""


@dataclass(frozen=True)
class TrainConfig:
    """Train IRecGAN: a recommendation policy from logged sessions, by adversarial model-based reinforcement learning.

    Without a flag: the quick preset on a log of the built-in simulator.
    """

    preset: Preset = "quick"
    """quick: a small GRU, less than a minute on two cores. paper: the paper's sizes (LSTM, 2 x 512), hours."""
    method: MethodName = "irecgan"
    """What to train. lstm: the user model alone, recommending its most clickable items. pg: the agent alone, by policy
    gradient on the log. irecgan: both, by Algorithm 1. lstmd: the same run, for its user model. pgis: pg with importance
    weights. ac: the agent alone, by actor-critic on the log. pgu, acu: pg and ac on logged and generated sessions, without
    a discriminator. pg-online, pg-online-offline, lstm-offline, irecgan-online: from scratch, without a log, in turns with
    the simulator."""
    data: str = "simulator"
    """Where the log comes from: simulator, a directory that irecgan_ext.prepare wrote, a Parquet file as irecgan_ext.simulate
    writes it (- for standard input), or an authors' log_*.txt."""
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
    """Items per recommendation (K), with data simulator; with a prepared log, of the recommendations that are generated beside
    its lists; a file's own otherwise."""
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
    """Share of the log held out for early stopping; a prepared log has its own split."""
    checkpoint_seconds: float = 20.0
    """Least time between two checkpoints; 0 saves after every unit of work."""
    quiet: bool = False
    """No progress on standard error."""
    model: ModelConfig = field(default_factory=ModelConfig)
    user: PretrainConfig = field(default_factory=lambda: PretrainConfig(5e-3, 20, batch=64, decay=0.8))
    agent: PretrainConfig = field(default_factory=lambda: PretrainConfig(2e-3, 12))
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    pgis: ImportanceConfig = field(default_factory=ImportanceConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def check(self) -> None:
        """Raise UsageError, naming the flag, for a value that its type allows but training cannot use."""
        check(self)


def preset(name: Preset) -> TrainConfig:
    """The configuration that `--preset name` starts from."""
    quick = TrainConfig()
    if name == "quick":
        return quick
    return replace(
        quick,
        preset="paper",
        out=Path("runs/paper"),
        model=ModelConfig("lstm", 50, 512, 2, user_dropout=0.2, agent_dropout=0.2),
        user=PretrainConfig(5e-4, 50, batch=32, min_updates=1, decay=1.0),
        agent=PretrainConfig(1e-4, 50, batch=32, min_updates=1, decay=1.0),
        discriminator=DiscriminatorConfig(1e-4, 3, 32),
        critic=CriticConfig(5e-4),
        adversarial=AdversarialConfig(
            epochs=10,
            r_steps=9,
            d_epochs=3,
            generated=200,
            logged_ratio=10.0,
            max_steps=None,
            user_learning_rate=5e-4,
            agent_learning_rate=1e-4,
            final_rate=1.0,
            user_batch=32,
            agent_batch=32,
            log_weight=10.0,
            log_anchor=0.0,
            action="click",
            pessimism=0.0,
            centre_q=False,
            average=0.0,
        ),
    )
