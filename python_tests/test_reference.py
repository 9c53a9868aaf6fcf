"""The reference operators against exact laws, and against the models they step."""

import importlib
import itertools
import math

import pytest
import torch
from torch import Tensor

from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.reference import Stream, gumbel_topk, rollout
from irecgan_ext.types import BOS, END, PAD, Trajectories

ITEMS, SLATE, CAP = 13, 4, 6


def draw(logits: Tensor, k: int, seed: int = 0, rows: Tensor | None = None, step: int = 0):
    return gumbel_topk(logits, k, torch.tensor(seed), torch.arange(len(logits)) if rows is None else rows, step)


def chi_squared_p(counts: Tensor, probabilities: Tensor) -> float:
    """Upper tail of Pearson's statistic for counts [n] under probabilities [n]."""
    expected = probabilities.double() * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2).item()


def kolmogorov_p(u: Tensor) -> float:
    """Asymptotic p-value of the Kolmogorov-Smirnov test that u [n] is uniform on (0, 1)."""
    n = len(u)
    grid = torch.arange(n + 1, dtype=torch.float64) / n
    ordered = u.double().sort().values
    distance = max((grid[1:] - ordered).max().item(), (ordered - grid[:-1]).max().item())
    x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    return min(1.0, max(0.0, 2 * sum((-1) ** (j - 1) * math.exp(-2 * (j * x) ** 2) for j in range(1, 101))))


def plackett_luce(logits: Tensor, k: int) -> tuple[list[tuple[int, ...]], Tensor]:
    """Every ordered draw of k items with a finite logit, and its exact probability."""
    weights = logits.double().exp()
    possible = [i for i in range(len(logits)) if weights[i] > 0]
    draws = list(itertools.permutations(possible, k))
    probabilities = []
    for order in draws:
        left, p = weights.clone(), 1.0
        for item in order:
            p *= (left[item] / left.sum()).item()
            left[item] = 0
        probabilities.append(p)
    return draws, torch.tensor(probabilities, dtype=torch.float64)


def spread(count: int, places: dict[int, float]) -> Tensor:
    logits = torch.full((count,), -torch.inf)
    for place, value in places.items():
        logits[place] = value
    return logits


LAWS = {
    "one block, k = 2": (torch.tensor([0.5, -1.0, 1.5, 0.0, 0.2]), 2),
    "one block, k = 3": (torch.tensor([0.5, -1.0, 1.5, 0.0, 0.2]), 3),
    "across blocks": (spread(200, {3: 0.1, 70: 1.0, 71: -0.5, 150: 0.6, 199: 0.0}), 3),
    "shared arrival counters": (spread(128, {63: 0.3, 64: -0.3, 127: 0.0}), 3),
    "behind a dominant item": (spread(130, {5: 60.0, 6: 0.0, 7: 1.0, 129: 0.5}), 3),
}


@pytest.mark.parametrize(("logits", "k"), LAWS.values(), ids=LAWS.keys())
def test_draws_follow_plackett_luce(logits, k):
    draws, probabilities = plackett_luce(logits, k)
    _, indices = draw(logits.expand(20_000, -1), k, seed=11)
    number = {order: n for n, order in enumerate(draws)}
    counts = torch.bincount(torch.tensor([number[tuple(i)] for i in indices.tolist()]), minlength=len(draws))
    likely = probabilities * len(indices) >= 1
    assert counts[~likely].sum() <= 5
    assert chi_squared_p(counts[likely], probabilities[likely] / probabilities[likely].sum()) > 1e-3


def test_values_are_the_arrivals_of_the_race():
    """Minus log of the values are arrival times: each gap, times the weight still in the race, is Exp(1)."""
    logits = torch.randn(150, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, indices = draw(logits.expand(4_000, -1), 5, seed=2)
    weights = logits.exp().expand(4_000, -1).clone()
    before = torch.zeros(4_000, dtype=torch.float64)
    for j in range(5):
        arrival = (-values[:, j]).exp()
        assert kolmogorov_p(-torch.expm1(-(arrival - before) * weights.sum(1))) > 1e-3
        weights.scatter_(1, indices[:, j : j + 1], 0.0)
        before = arrival


def test_the_maximum_is_gumbel_at_catalogue_scale():
    """max_i (l_i + G_i) - logsumexp(l) is standard Gumbel; noise clipped to 9.21 fails the same test."""
    rows, items = 3_000, 5_000
    values, _ = draw(torch.zeros(1, items).expand(rows, -1), 1, seed=3)
    centred = values[:, 0].double() - math.log(items)
    assert abs(centred.mean().item() - 0.5772157) < 4 * math.pi / math.sqrt(6 * rows)
    assert kolmogorov_p((-(-centred).exp()).exp()) > 1e-3
    u = torch.rand(rows, items, generator=torch.Generator().manual_seed(0)).clamp(1e-4, 1 - 1e-4)
    clipped = -(-u.amax(1).double().log()).log() - math.log(items)
    assert kolmogorov_p((-(-clipped).exp()).exp()) < 1e-3


def test_a_rare_item_is_not_starved():
    """An item of probability 1e-8 arrives after Exp(1) / w like any other: its own value is Gumbel around its logit."""
    logit = math.log(1e-8)
    values, indices = draw(torch.tensor([[0.0, logit]]).expand(4_000, -1), 2, seed=4)
    rare = values.gather(1, (indices == 1).int().argmax(1, keepdim=True))[:, 0].double()
    assert kolmogorov_p((-(logit - rare).exp()).exp()) > 1e-3


@pytest.mark.parametrize("items", [1, 2, 63, 64, 65, 127, 128, 129, 257])
def test_all_items_are_a_permutation_in_descending_value(items):
    logits = 3 * torch.randn(5, items, generator=torch.Generator().manual_seed(items))
    values, indices = draw(logits, items)
    assert torch.equal(indices.sort(1).values, torch.arange(items).expand(5, -1))
    assert bool((values.diff(dim=1) <= 0).all())
    assert indices.dtype == torch.int64


def test_excluded_items_are_never_drawn():
    logits = torch.zeros(500, 130)
    logits[:, ::2] = -torch.inf
    values, indices = draw(logits, 10)
    assert bool((indices % 2 == 1).all()) and bool(values.isfinite().all())


def test_draws_beyond_the_finite_logits():
    values, indices = draw(spread(100, {80: 1.0, 2: 0.0}).expand(3, -1), 4)
    assert indices[:, :2].sort(1).values.tolist() == [[2, 80]] * 3
    assert indices[:, 2:].tolist() == [[-1, -1]] * 3
    assert bool((values[:, 2:] == -torch.inf).all()) and bool(values[:, :2].isfinite().all())
    assert draw(spread(3, {}).expand(2, -1), 2)[1].tolist() == [[-1, -1]] * 2


def test_logits_far_apart_keep_their_order():
    values, indices = draw(torch.tensor([[-2000.0, 3000.0, 0.0]]), 3)
    assert indices.tolist() == [[1, 2, 0]]
    assert bool(values.isfinite().all())


def test_shifted_logits_shift_the_values():
    logits = torch.randn(6, 90, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values, indices = draw(logits, 7)
    shifted, same = draw(logits + 500, 7)
    assert torch.equal(indices, same)
    torch.testing.assert_close(shifted, values + 500)


def test_noise_is_keyed_by_seed_row_and_step():
    logits = torch.randn(8, 70, generator=torch.Generator().manual_seed(6))
    values, indices = draw(logits, 3)
    part = torch.tensor([6, 1])
    again = draw(logits[part], 3, rows=part)
    assert torch.equal(again[0], values[part]) and torch.equal(again[1], indices[part])
    for other in (draw(logits, 3, seed=1), draw(logits, 3, step=1), draw(logits, 3, rows=torch.arange(8) + 2**32)):
        assert not torch.equal(other[0], values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_have_the_dtype_of_the_logits(dtype):
    assert draw(torch.zeros(2, 5, dtype=dtype), 2)[0].dtype == dtype


def test_inputs_are_left_alone():
    wide = torch.randn(40, 6, generator=torch.Generator().manual_seed(7), requires_grad=True)
    before = wide.detach().clone()
    values, indices = draw(wide.T, 3)
    assert not values.requires_grad
    assert torch.equal(wide, before)
    plain = draw(before.T.contiguous(), 3)
    assert torch.equal(values, plain[0]) and torch.equal(indices, plain[1])


def test_no_rows():
    values, indices = draw(torch.zeros(0, 70), 2)
    assert values.shape == indices.shape == (0, 2)


class Setting:
    """Three small models of the same shape and the rollout between them."""

    def __init__(self, cell: str = "gru", reward: str = "survival", items: int = ITEMS) -> None:
        torch.manual_seed(0)
        self.cell, self.reward = cell, reward
        self.user = UserModel(items, 5, 7, 2, cell, reward=reward)
        self.agent = Agent(items, 6, 8, 1, cell)
        self.discriminator = Discriminator(items, 4, 6, 2, cell, reward=reward)
        for model in (self.user, self.agent, self.discriminator):
            torch.nn.init.normal_(model.encoder.embedding.weight, std=0.7)

    @property
    def models(self):
        return self.user, self.agent, self.discriminator

    def roll(self, rows: Tensor, completions=0, seed=1, slate=SLATE, cap=CAP, scored=True, prefix=None):
        """`rollout` of `rows` from BOS, or from prefix = (states, symbols [R], steps [R], score_sums [R])."""
        zeros = torch.zeros_like(rows)
        states = [m.encoder.initial_state(1) for m in self.models]
        states, symbols, steps, sums = prefix or (states, zeros + BOS, zeros, zeros.float())
        flat = [[p.detach() for p in m.rollout_parameters()] for m in self.models]
        return rollout(
            flat[0],
            flat[1],
            flat[2] if scored else [],
            *states,
            zeros,
            symbols,
            steps,
            rows,
            sums,
            torch.tensor(seed),
            self.cell,
            self.reward,
            slate,
            completions,
            cap,
            True,
        )


def as_trajectories(out, start: Tensor | None = None) -> Trajectories:
    slates, clicks, rewards, lengths, censored = out[:5]
    start = torch.full_like(lengths, BOS) if start is None else start
    return Trajectories(start, slates, clicks, rewards, lengths, censored)


MODES = list(itertools.product(("gru", "lstm"), ("survival", "binary")))


@pytest.mark.parametrize(("cell", "reward"), MODES)
def test_rollout_is_sound_and_scored_as_the_model_scores_it(cell, reward):
    setting = Setting(cell, reward)
    out = setting.roll(torch.arange(60), completions=2)
    trajectories = as_trajectories(out)
    trajectories.validate(ITEMS)
    assert out[0].shape == (60, CAP, SLATE) and out[6].shape == (60, CAP)
    assert 0 < int(trajectories.censored.sum()) < 60
    assert bool((trajectories.lengths[trajectories.censored] == CAP).all())
    torch.testing.assert_close(out[5], torch.sigmoid(setting.discriminator(trajectories)))
    mask = trajectories.step_mask()
    assert bool((trajectories.slates[mask].sort(-1).values.diff(dim=-1) > 0).all()), "an item twice in a slate"
    assert bool((trajectories.slates[~mask] == PAD).all()) and bool((trajectories.clicks[~mask] == PAD).all())
    if reward == "survival":
        assert torch.equal(trajectories.rewards, trajectories.click_mask().float())
    else:
        assert 0 < trajectories.rewards.sum() < trajectories.click_mask().sum()
        assert bool((trajectories.rewards[~trajectories.click_mask()] == 0).all())


@pytest.mark.parametrize(("cell", "reward"), MODES)
def test_rollout_depends_on_seed_and_row_id_alone(cell, reward):
    setting = Setting(cell, reward)
    whole = setting.roll(torch.arange(30), completions=2)
    again = setting.roll(torch.arange(30), completions=2)
    assert all(torch.equal(a, b) for a, b in zip(whole, again))
    part = setting.roll(torch.arange(10, 20), completions=2)
    for a, b in zip(whole[:7], part[:7]):
        torch.testing.assert_close(a[10:20], b)
    assert not torch.equal(whole[1], setting.roll(torch.arange(30), seed=2)[1])
    assert not torch.equal(whole[1][:20], setting.roll(torch.arange(10, 30))[1])


def test_completions_leave_the_sessions_as_they_are():
    setting = Setting()
    for a, b in zip(setting.roll(torch.arange(30))[:6], setting.roll(torch.arange(30), completions=3)[:6]):
        torch.testing.assert_close(a, b)


def test_q_where_defined():
    setting = Setting()
    *_, lengths, _, scores, q, _ = setting.roll(torch.arange(40), completions=3)
    steps = torch.arange(CAP)
    assert torch.equal(q.gather(1, lengths[:, None] - 1)[:, 0], scores)
    assert bool((q[steps >= lengths[:, None]] == 0).all())
    before = q[steps < lengths[:, None]]
    assert bool(((before > 0) & (before < 1)).all())
    q = setting.roll(torch.arange(40))[6]
    torch.testing.assert_close(q, torch.zeros(40, CAP).scatter(1, lengths[:, None] - 1, scores[:, None]))


def test_q_is_the_mean_score_of_independent_sessions_from_the_same_prefix():
    setting = Setting()
    slates, clicks, *_, q, _ = setting.roll(torch.arange(20), completions=1_500)
    row = int((clicks[:, 0] != END).int().argmax())
    bos = torch.tensor([BOS])
    states = [m.encoder.step(m.encoder.initial_state(1), bos).detach() for m in setting.models]
    model = setting.discriminator
    first = model.step_scores(model.encoder.output(states[2]), slates[row, :1], clicks[row, :1], torch.ones(1))
    rows = torch.arange(1_000, 2_500)
    ones = torch.ones_like(rows)
    out = setting.roll(rows, prefix=(states, ones * clicks[row, 0], ones, first.detach().expand(1_500)))
    deviation = math.sqrt(2 / 1_500) * out[5].std().item()
    assert out[5].std().item() > 0
    assert abs(q[row, 0].item() - out[5].mean().item()) < 4 * deviation


def test_sessions_from_a_prefix_are_scored_with_it():
    """Rows of one call may start at different steps; columns count from each row's own start."""
    setting = Setting()
    model = setting.discriminator
    head = torch.tensor([[[1, 2, 3, 4]], [[5, 6, 7, 8]]])
    prefix = Trajectories(
        torch.tensor([BOS, BOS]),
        head,
        torch.tensor([[2], [7]]),
        torch.ones(2, 1),
        torch.tensor([1, 1]),
        torch.ones(2).bool(),
    )
    bos = torch.tensor([BOS])
    after = [m.encoder.step(m.encoder.initial_state(1), bos).detach() for m in setting.models]
    sums = model(prefix).detach()
    out = setting.roll(torch.arange(2), completions=2, prefix=(after, prefix.clicks[:, 0], torch.tensor([1, 1]), sums))
    assert out[0].shape == (2, CAP - 1, SLATE)
    generated = as_trajectories(out, prefix.start)
    whole = Trajectories(
        prefix.start,
        torch.cat([head, generated.slates], 1),
        torch.cat([prefix.clicks, generated.clicks], 1),
        torch.cat([prefix.rewards, generated.rewards], 1),
        generated.lengths + 1,
        generated.censored,
    )
    whole.validate(ITEMS)
    torch.testing.assert_close(out[5], torch.sigmoid(model(whole)))
    mixed = setting.roll(torch.arange(2), 2, prefix=(after, prefix.clicks[:, 0], torch.tensor([1, CAP - 1]), sums))
    assert mixed[0].shape == (2, CAP - 1, SLATE)
    assert int(mixed[3][1]) == 1 and bool((mixed[1][1, 1:] == PAD).all())
    for a, b in zip(out[:7], mixed[:7]):
        torch.testing.assert_close(a[0], b[0])


def bias_end(setting: Setting, logit: float) -> None:
    """Make END's click logit `logit` in every state, and every item's 0."""
    with torch.no_grad():
        setting.user.encoder.embedding.weight.zero_()
        setting.user.encoder.embedding.weight[ITEMS, 0] = logit
        setting.user.query.weight.zero_()
        setting.user.query.bias.zero_()
        setting.user.query.bias[0] = 1.0


def test_everybody_leaves_at_once():
    setting = Setting()
    bias_end(setting, 50.0)
    *_, clicks, rewards, lengths, censored, scores, q, work = setting.roll(torch.arange(9), completions=4)
    assert bool((lengths == 1).all()) and not bool(censored.any())
    assert bool((clicks[:, 0] == END).all()) and bool((clicks[:, 1:] == PAD).all())
    assert bool((rewards == 0).all())
    assert torch.equal(q[:, 0], scores)
    assert work.tolist() == [9, 9, 9, 1]


@pytest.mark.parametrize("cap", [1, 2, 5])
def test_nobody_leaves_before_the_cap(cap):
    setting = Setting()
    bias_end(setting, -50.0)
    *_, clicks, rewards, lengths, censored, _, _, work = setting.roll(torch.arange(9), completions=2, cap=cap)
    assert bool((lengths == cap).all()) and bool(censored.all())
    assert bool((clicks >= 0).all()) and bool((rewards == 1).all())
    steps = 9 * (cap + 2 * sum(range(cap)))
    assert work.tolist() == [steps, steps, steps, cap]


def test_every_row_step_has_its_own_counters(monkeypatch):
    module = importlib.import_module("irecgan_ext.reference.rollout")
    seen = []

    def record(*arguments: Tensor) -> Stream:
        seen.append(torch.stack(arguments[1:], 1))
        return Stream(*arguments)

    monkeypatch.setattr(module, "Stream", record)
    rows = torch.tensor([4, 2**33])
    clicks = Setting().roll(rows, completions=2)[1]
    lengths = (clicks != PAD).sum(1).tolist()
    used = {tuple(counter) for counter in torch.cat(seen).tolist()}
    assert len(used) == sum(map(len, seen)), "two row-steps share their random numbers"
    for row, length in zip(rows.tolist(), lengths):
        steps = {(step, n, spawn) for r, step, n, spawn in used if r == row}
        assert {s for s in steps if s[2] == 0} == {(t, 0, 0) for t in range(length)}
        branches = {(n, spawn) for _, n, spawn in steps if spawn > 0}
        assert branches == {(n, t + 1) for t in range(length - 1) for n in range(2)}
        for n, spawn in branches:
            own = sorted(step for step, m, s in steps if (m, s) == (n, spawn))
            assert own == list(range(spawn, spawn + len(own)))
            assert own[-1] < CAP


def test_clicks_and_rewards_follow_their_probabilities():
    setting = Setting(reward="binary", items=4)
    rows = torch.arange(20_000)
    _, clicks, rewards, *_ = setting.roll(rows, slate=4, cap=1, scored=False)
    slate = torch.arange(4)
    with torch.no_grad():
        state = setting.user.encoder(torch.tensor([[BOS]]))[0, 0]
        probabilities = setting.user.click_logits(state, slate).softmax(-1)
        rewarding = torch.sigmoid(setting.user.reward_logits(state.expand(4, -1), slate)).double()
    counts = torch.bincount(torch.where(clicks[:, 0] == END, 4, clicks[:, 0]), minlength=5)
    assert chi_squared_p(counts, probabilities) > 1e-3
    for item in range(4):
        earned = rewards[clicks[:, 0] == item, 0]
        p = rewarding[item].item()
        assert abs(earned.mean().item() - p) < 4 * math.sqrt(p * (1 - p) / len(earned))


def test_slates_follow_the_agent():
    setting = Setting(items=5)
    slates = setting.roll(torch.arange(20_000), slate=2, cap=1, scored=False)[0]
    with torch.no_grad():
        logits = setting.agent.logits(setting.agent.encoder(torch.tensor([[BOS]]))[0, 0])
    draws, probabilities = plackett_luce(logits, 2)
    number = {order: n for n, order in enumerate(draws)}
    counts = torch.bincount(torch.tensor([number[tuple(s)] for s in slates[:, 0].tolist()]), minlength=len(draws))
    assert chi_squared_p(counts, probabilities) > 1e-3


def test_without_a_discriminator_nothing_is_scored():
    setting = Setting()
    scored, bare = setting.roll(torch.arange(20)), setting.roll(torch.arange(20), completions=3, scored=False)
    for a, b in zip(scored[:5], bare[:5]):
        torch.testing.assert_close(a, b)
    assert not bool(bare[5].any()) and not bool(bare[6].any())
    assert torch.equal(scored[7], bare[7])


def test_rollout_of_no_rows():
    out = Setting().roll(torch.arange(0), completions=2)
    assert [tuple(x.shape) for x in out] == [(0, 0, SLATE), (0, 0), (0, 0), (0,), (0,), (0,), (0, 0), (4,)]
    assert out[7].tolist() == [0, 0, 0, 0]
