"""Losses and returns against numbers worked out by hand, and their gradients."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck

from irecgan_ext import losses

# Two sessions: two clicks then END; one click, censored.
MASK = torch.tensor([[True, True, True], [True, False, False]])
CLICKED = torch.tensor([[True, True, False], [True, False, False]])
CLICK_LOG_PROBS = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, math.nan, math.nan]])
REWARD_LOG_PROBS = torch.tensor([[-0.5, -0.25, math.nan], [-1.0, math.nan, math.nan]])
Q = torch.tensor([[0.5, 0.25, 1.0], [0.75, math.nan, math.nan]])
REWARDS = torch.tensor([[1.0, 0.0, 0.0], [1.0, math.nan, math.nan]])


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype))


def test_user_likelihood():
    close(losses.user_likelihood(CLICK_LOG_PROBS, None, MASK, CLICKED), (6 + 4) / 2)
    close(losses.user_likelihood(CLICK_LOG_PROBS, REWARD_LOG_PROBS, MASK, CLICKED, lambda_p=2.0), (10 + 2 * 1.75) / 2)


def test_discriminator_loss():
    close(losses.discriminator_loss(torch.zeros(3), torch.zeros(2)), 2 * math.log(2))
    real, fake = torch.tensor([math.log(3.0), 0.0]), torch.tensor([math.log(4.0)])
    close(losses.discriminator_loss(real, fake), -(math.log(0.75) + math.log(0.5)) / 2 - math.log(0.2))
    close(losses.discriminator_loss(torch.tensor([-200.0]), torch.tensor([200.0])), 400.0)


def test_user_policy_gradient():
    clicks = 0.5 * 1 + 0.25 * 2 + 1 * 3 + 0.75 * 4
    rewards = 0.5 * 0.5 + 0.25 * 0.25 + 0.75 * 1
    close(losses.user_policy_gradient(CLICK_LOG_PROBS, None, Q, MASK, CLICKED), clicks / 2)
    both = losses.user_policy_gradient(CLICK_LOG_PROBS, REWARD_LOG_PROBS, Q, MASK, CLICKED, lambda_p=2.0)
    close(both, (clicks + 2 * rewards) / 2)


def test_user_policy_gradient_on_logged_data_is_the_likelihood():
    ones = torch.ones_like(Q)
    gradient = losses.user_policy_gradient(CLICK_LOG_PROBS, REWARD_LOG_PROBS, ones, MASK, CLICKED, 0.5)
    close(gradient, losses.user_likelihood(CLICK_LOG_PROBS, REWARD_LOG_PROBS, MASK, CLICKED, 0.5))


def test_user_policy_gradient_weights():
    log_probs = CLICK_LOG_PROBS.clone().requires_grad_()
    q = Q.clone().requires_grad_()
    losses.user_policy_gradient(log_probs, None, q, MASK, CLICKED).backward()
    close(log_probs.grad, [[-0.25, -0.125, -0.5], [-0.375, 0.0, 0.0]])
    assert q.grad is None


def test_sequence_returns():
    close(losses.sequence_returns(Q, MASK, gamma=0.5), [[0.5 + 0.125 + 0.25, 0.25 + 0.5, 1.0], [0.75, 0.0, 0.0]])


def test_reward_returns_scale_each_reward_by_its_own_score():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, math.nan, math.nan]])
    expected = [[0.5 + 0.5 * 0.5 + 0.25 * 4, 0.5 + 0.5 * 4, 4.0], [0.75, 0.0, 0.0]]
    close(losses.reward_returns(Q, rewards, MASK, gamma=0.5), expected)


def test_agent_returns():
    # q (1 + 3 r): 2, 0.25, 1 and 3; the END step counts in the return.
    expected = [[2 + 0.9 * 0.25 + 0.81, 0.25 + 0.9, 1.0], [3.0, 0.0, 0.0]]
    close(losses.agent_returns(Q, REWARDS, MASK), expected)
    parts = losses.sequence_returns(Q, MASK, 0.7) + 5 * losses.reward_returns(Q, REWARDS, MASK, 0.7)
    close(losses.agent_returns(Q, REWARDS, MASK, gamma=0.7, lambda_r=5.0), parts)


def test_returns_of_no_steps():
    nothing = torch.zeros(2, 0)
    assert losses.sequence_returns(nothing, nothing.bool()).shape == (2, 0)


def test_discounted_returns_gradient():
    rewards = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    assert gradcheck(lambda r: losses.discounted_returns(r, mask, 0.9), rewards)


def test_agent_policy_gradient():
    log_probs = torch.tensor([[-1.0, -2.0, math.nan], [-4.0, math.nan, math.nan]], requires_grad=True)
    returns = torch.tensor([[3.0, 2.0, 1.0], [0.5, math.nan, math.nan]], requires_grad=True)
    loss = losses.agent_policy_gradient(log_probs, returns, CLICKED)
    close(loss.detach(), (3 + 4 + 2) / 2)
    loss.backward()
    close(log_probs.grad, [[-1.5, -1.0, 0.0], [-0.25, 0.0, 0.0]])
    assert returns.grad is None


def test_plackett_luce_by_hand():
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).log()
    slates = torch.tensor([[3, 0], [0, 3], [2, -1], [-1, 2]])
    expected = [math.log(4 / 10 * 1 / 6), math.log(1 / 10 * 4 / 9), math.log(3 / 10), math.log(3 / 10)]
    close(losses.plackett_luce_log_prob(logits.expand(4, 4), slates), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_plackett_luce_sums_to_one(size):
    logits = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    slates = torch.tensor(list(itertools.permutations(range(4), size)))
    log_probs = losses.plackett_luce_log_prob(logits.expand(len(slates), 4), slates)
    close(log_probs.exp().sum(), 1.0)


def test_plackett_luce_keeps_precision_behind_a_dominant_item():
    logits = torch.tensor([60.0, 0.0, 0.0, math.log(2.0)])
    close(losses.plackett_luce_log_prob(logits, torch.tensor([0, 3, 1])), math.log(0.5) + math.log(0.5))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_plackett_luce_gradient():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    slates = torch.tensor([[4, 0, 2, 1, 3, -1], [1, -1, 3, -1, -1, -1], [-1, -1, -1, -1, -1, -1]])
    with torch.autograd.detect_anomaly(check_nan=True):
        losses.plackett_luce_log_prob(logits, slates).sum().backward()
    assert gradcheck(lambda x: losses.plackett_luce_log_prob(x, slates), logits.detach().requires_grad_())


def test_plackett_luce_of_one_item_is_log_softmax():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(2))
    slates = torch.randint(7, (2, 3, 1), generator=torch.Generator().manual_seed(3))
    close(losses.plackett_luce_log_prob(logits, slates), logits.log_softmax(-1).gather(-1, slates)[..., 0])


def test_policy_entropy():
    logits = torch.zeros(2, 3, 8)
    close(losses.policy_entropy(logits), torch.full((2, 3), math.log(8)))
    logits[1, :, 2:] = -torch.inf
    close(losses.policy_entropy(logits), torch.tensor([[math.log(8)] * 3, [math.log(2)] * 3]))
    skewed = torch.tensor([0.5, 0.25, 0.25]).log()
    close(losses.policy_entropy(skewed), torch.tensor(1.5 * math.log(2)))


def test_policy_entropy_gradient():
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    assert gradcheck(losses.policy_entropy, logits)
    excluded = logits.detach().index_fill(-1, torch.tensor([0]), -torch.inf).requires_grad_()
    losses.policy_entropy(excluded).sum().backward()
    assert bool(excluded.grad.isfinite().all()) and bool((excluded.grad[..., 0] == 0).all())


@pytest.mark.parametrize("name", ["likelihood", "discriminator", "user", "agent"])
def test_gradcheck_of_losses(name):
    generator = torch.Generator().manual_seed(5)
    a, b, c = (torch.randn(2, 3, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3))
    checks = {
        "likelihood": lambda: gradcheck(lambda x, y: losses.user_likelihood(x, y, MASK, CLICKED, 0.5), (a, b)),
        "discriminator": lambda: gradcheck(lambda x, y: losses.discriminator_loss(x[0], y[1]), (a, b)),
        "user": lambda: gradcheck(
            lambda x, y: losses.user_policy_gradient(x, y, c.detach(), MASK, CLICKED, 0.5), (a, b)
        ),
        "agent": lambda: gradcheck(lambda x: losses.agent_policy_gradient(x, c.detach(), CLICKED), a),
    }
    assert checks[name]()


def advantages(trace, q=None):
    """Two sessions: a click, then END; a click, censored. gamma 0.5, lambda_r 2."""
    mask = torch.tensor([[True, True], [True, False]])
    clicked = torch.tensor([[True, False], [True, False]])
    rewards = torch.tensor([[1.0, 0.0], [1.0, math.nan]])
    survival = torch.tensor([[0.5, 0.25], [0.75, math.nan]])
    expected = torch.tensor([[0.5, 0.125], [0.25, math.nan]])
    q = torch.full((2, 2), 0.5) if q is None else q
    return losses.slate_advantages(q, rewards, survival, expected, mask, clicked, 0.5, 2.0, trace)


def test_slate_advantages_by_hand():
    # Only session 0 has a later step, its END step, whose return is 1: V = 1.
    # rho without trace: 1 + 2 * 0.5 + 0.5 * 0.5 = 2.25 and 1 + 2 * 0.25 + 0.5 * 0.75 = 1.875, their mean 2.0625.
    # Later steps are centred apart; there is one.
    close(advantages(0.0), [[0.1875, 0.0], [-0.1875, 0.0]])
    # R_1 - V = 0 for session 0; session 1 was cut, nothing is known of what came after.
    close(advantages(1.0), [[0.1875, 0.0], [-0.1875, 0.0]])


def test_slate_advantages_trace_what_followed():
    # Clicks on two steps, then END, in session 0; END at once after a click in session 1. Returns from later steps:
    # 1 + 0.5 (1 + 1) + ... with gamma 0.5, lambda_r 1: session 0 has R_1 = 2.5, R_2 = 1; session 1 has R_1 = 1. V = 1.5.
    mask = torch.tensor([[True, True, True], [True, True, False]])
    clicked = torch.tensor([[True, True, False], [True, False, False]])
    rewards = clicked.float()
    half = torch.full((2, 3), 0.5)
    ones = torch.ones(2, 3)
    for trace in (0.0, 0.5, 1.0):
        got = losses.slate_advantages(ones, rewards, half, half, mask, clicked, 0.5, 1.0, trace)
        first = trace * 0.5 * torch.tensor([2.5 - 1.5, 1.0 - 1.5])
        later = trace * 0.5 * torch.tensor([1.0 - 1.5, 0.0, 0.0])  # the END steps have nothing after them, and count
        first, later = first - first.mean(), later - later.mean()
        close(got, [[first[0], later[0], later[1]], [first[1], later[2], 0.0]])


def test_slate_advantages_trust():
    q = torch.tensor([[0.25, 0.5], [0.75, math.nan]])
    close(advantages(0.0, q), [[0.1875 * 0.5, 0.0], [-0.1875 * 1.5, 0.0]])
    mask = torch.ones(12, 1, dtype=torch.bool)
    expected = torch.arange(12.0)[:, None]
    q = torch.full((12, 1), 0.01)
    q[3] = 1.0
    zeros = torch.zeros(12, 1)
    got = losses.slate_advantages(q, zeros, zeros, expected, mask, mask, 0.9, 1.0)
    trust = torch.full((12, 1), 0.01 / (1.11 / 12))
    trust[3] = 5.0  # 1 / (1.11 / 12) > 10
    close(got, (expected - 5.5) * trust)


def test_slate_advantages_are_centred_by_part():
    generator = torch.Generator().manual_seed(6)
    lengths = torch.randint(1, 6, (31,), generator=generator)
    mask = torch.arange(5) < lengths[:, None]
    clicked = mask & (torch.arange(5) < lengths[:, None] - 1)
    survival = torch.rand(31, 5, generator=generator)
    got = losses.slate_advantages(torch.ones(31, 5), clicked.float(), survival, survival, mask, clicked, trace=0.7)
    close(got[:, 0].mean(), 0.0)
    close(got[:, 1:].sum(), 0.0)
    assert bool((got[~mask] == 0).all())
    assert bool((got[mask] != 0).all())


def test_slate_advantages_without_later_steps():
    ones = torch.ones(3, 1)
    survival = torch.tensor([[0.1], [0.2], [0.6]])
    got = losses.slate_advantages(ones, ones, survival, survival, ones.bool(), ones.bool(), 0.5, 2.0)
    close(got, 2 * (survival - 0.3))


def test_traced_slate_advantages_have_the_mean_of_the_sampled_return():
    """Two-step users, every outcome listed in proportion to its probability. Slate A keeps 1/2 of them, slate B 1/4; at the
    second step a slate keeps 1/2. Whatever V is, the mean weight of a slate is that of its return, up to the centring."""
    rows = []  # slate, clicks
    for slate, stay in (("A", 4), ("B", 2)):  # of 8 sessions each
        rows += [(slate, 0)] * (8 - stay) + [(slate, 1)] * (stay // 2) + [(slate, 2)] * (stay // 2)
    clicks = torch.tensor([count for _, count in rows])
    shown = torch.tensor([0 if slate == "A" else 1 for slate, _ in rows])
    lengths = (clicks + 1).clamp(max=2)  # cut after two steps
    mask = torch.arange(2) < lengths[:, None]
    clicked = torch.arange(2) < clicks[:, None]
    survival = torch.stack([torch.where(shown == 0, 0.5, 0.25), torch.full((16,), 0.5)], 1)
    rewards, ones = clicked.float(), torch.ones(16, 2)
    sampled = losses.agent_returns(ones, rewards, mask, 0.9, 3.0)[:, 0]
    got = losses.slate_advantages(ones, rewards, survival, survival, mask, clicked, 0.9, 3.0, 1.0)[:, 0]
    for slate in (0, 1):
        close(got[shown == slate].mean(), (sampled[shown == slate].mean() - sampled.mean()).item())
    assert got.var() < sampled.var()
