"""What a log says of its users' rewards to someone who knows all else: samples of r, by Hamiltonian Monte Carlo."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from irecgan_ext.types import Trajectories

LEAPFROGS = 20
ASCENT = 300  # steps from a draw of the prior to where the posterior has its mass
ACCEPTANCE = 0.8  # of the proposals: longer steps above, shorter ones below, until samples are kept, with their mean
LEAST_ACCEPTANCE = 0.4  # of the kept samples
INFORMATION = 0.05  # of one showing on a logit, about; a click is one in ten
PRIOR = 0.4  # the same of the uniform prior, a logistic one on the logit


def sample_rewards(log: Trajectories, transitions: Tensor, samples: int, seed: int) -> Tensor:
    """Rewards given a log, with r(i|s) ~ U(0, 1), independent: the prior that simulated users are drawn from.

    As many samples again are drawn before them and forgotten. The chain starts from a draw of the prior, not from the truth.

    Args:
        log: sessions of full slates, of a policy that does not see the state.
        transitions: [M, C, M] float64, P(next state | state, item).
        samples: B.
        seed: of the chain.

    Returns:
        [B, M, C] float64.

    Raises:
        RuntimeError: too few proposals were accepted for the samples to be any.
    """
    target = Posterior(log, transitions)
    generator = torch.Generator().manual_seed(seed)
    mass = target.information()
    logits = torch.logit(torch.rand(mass.shape, generator=generator, dtype=torch.float64).clamp(0.01, 0.99))
    for _ in range(ASCENT):
        gradient = target(logits)[1]
        logits = logits + INFORMATION * gradient / (1 + gradient.abs())
    density, gradient = target(logits)
    step, tried, kept, accepted = 0.25, [], [], 0.0
    for number in range(2 * samples):
        if number == samples:
            step = math.exp(math.fsum(tried) / len(tried))
        momentum = torch.randn(mass.shape, generator=generator, dtype=torch.float64) * mass.sqrt()
        proposal, proposed, slope = logits, density, gradient
        before = density - _kinetic(momentum, mass)
        size = step * float(torch.empty(()).uniform_(0.7, 1.3, generator=generator))
        for _ in range(LEAPFROGS):
            momentum = momentum + size / 2 * slope
            proposal = proposal + size * momentum / mass
            proposed, slope = target(proposal)
            momentum = momentum + size / 2 * slope
        accept = float((proposed - _kinetic(momentum, mass) - before).exp().clamp(max=1).nan_to_num(0.0))
        if float(torch.rand((), generator=generator)) < accept:
            logits, density, gradient = proposal, proposed, slope
        if number < samples:
            step *= 1.1 if accept > ACCEPTANCE else 0.9
            if number >= samples // 2:
                tried.append(math.log(step))
        else:
            kept.append(torch.sigmoid(logits))
            accepted += accept / samples
    if accepted < LEAST_ACCEPTANCE:
        raise RuntimeError(f"samples must move: {accepted:.0%} of the proposals were accepted")
    return torch.stack(kept)


def _kinetic(momentum: Tensor, mass: Tensor) -> Tensor:
    return (momentum.square() / mass).sum() / 2


class LoggedClicks:
    """The clicks of a log, longest sessions first, so that those which go on are always the first ones."""

    def __init__(self, log: Trajectories, items: int) -> None:
        order = log.lengths.argsort(descending=True)
        lengths = log.lengths[order]
        self.sessions = len(order)
        self.steps = []
        for t in range(int(lengths[0])):
            running = order[: int((lengths > t).sum())]
            shown = one_hot(log.slates[running, t], items).sum(1).float()
            clicks = log.clicks[running, t]
            self.steps.append((shown, clicks.clamp(min=0), clicks >= 0))

    def log_probability(self, rewards: Tensor, by_item: Tensor) -> Tensor:
        """[] float64: the recursion of `session_law`, in single precision, summed in double.

        Args:
            rewards: [M, C] float32. by_item: [C, M, M] float32, P(next state | item, state) at [item, state, next state].
        """
        belief = torch.zeros(self.sessions, len(rewards))
        belief[:, 0] = 1
        total = torch.zeros((), dtype=torch.float64)
        for shown, items, went_on in self.steps:
            weight = shown @ rewards.T
            taken = rewards.T[items].square() / weight
            outcome = torch.where(went_on[:, None], taken, 1 - (shown @ rewards.square().T) / weight)
            joint = outcome * belief[: len(items)]
            probability = joint.sum(1, keepdim=True)
            total = total + probability.log().sum(dtype=torch.float64)
            belief = ((joint / probability)[:, None] @ by_item[items])[:, 0]
        return total


class Posterior:
    """Log-density of the rewards' logits [M, C] float64 given a log, up to a constant."""

    def __init__(self, log: Trajectories, transitions: Tensor) -> None:
        self.clicks = LoggedClicks(log, transitions.shape[1])
        self.by_item = transitions.transpose(0, 1).float()

    def information(self) -> Tensor:
        """[M, C]: a rough inverse variance of each logit, for the sampler's masses.

        Later showings are spread over the states, and say less of each, since it is not seen.
        """
        states = self.by_item.shape[1]
        first, *later = (shown.sum(0).double() for shown, *_ in self.clicks.steps)
        spread = sum(later, torch.zeros_like(first)) / (2 * states)
        return PRIOR + INFORMATION * torch.stack([first] + [spread] * (states - 1))

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density [] and its gradient [M, C]."""
        logits = logits.detach().requires_grad_()
        clicks = self.clicks.log_probability(torch.sigmoid(logits).float(), self.by_item)
        density = clicks + (logsigmoid(logits) + logsigmoid(-logits)).sum()
        (gradient,) = torch.autograd.grad(density, logits)
        return density.detach(), gradient
