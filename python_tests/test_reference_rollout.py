"""The reference rollout against exact laws, and against the models that it steps."""

import importlib
import itertools
import math

import pytest
import torch
from laws import chi_squared_p, count_draws, plackett_luce
from settings import CAP, ITEMS, SLATE, Setting, as_trajectories, bias_end
from torch import Tensor

from irecgan_ext.reference import Stream
from irecgan_ext.types import BOS, END, PAD, Trajectories

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
    assert out[0].shape == (2, CAP, SLATE)
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
    assert mixed[0].shape == (2, CAP, SLATE)
    assert int(mixed[3][1]) == 1 and bool((mixed[1][1, 1:] == PAD).all())
    for a, b in zip(out[:7], mixed[:7]):
        torch.testing.assert_close(a[0], b[0])


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
    assert chi_squared_p(count_draws(slates[:, 0], draws), probabilities) > 1e-3


def test_without_a_discriminator_nothing_is_scored():
    setting = Setting()
    scored, bare = setting.roll(torch.arange(20)), setting.roll(torch.arange(20), completions=3, scored=False)
    for a, b in zip(scored[:5], bare[:5]):
        torch.testing.assert_close(a, b)
    assert not bool(bare[5].any()) and not bool(bare[6].any())
    assert torch.equal(scored[7], bare[7])


def test_rollout_of_no_rows():
    out = Setting().roll(torch.arange(0), completions=2)
    assert [tuple(x.shape) for x in out] == [(0, CAP, SLATE), (0, CAP), (0, CAP), (0,), (0,), (0,), (0, CAP), (4,)]
    assert out[7].tolist() == [0, 0, 0, 0]
