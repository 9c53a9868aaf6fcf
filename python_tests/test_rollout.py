"""`rollout` on models and trajectories: how sessions start, continue, are scored and carry gradients."""

from dataclasses import replace

import pytest
import torch
from settings import CAP, ITEMS, SLATE, Setting
from torch import Tensor

from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.rollout import Rollout, rollout
from irecgan_ext.types import BOS, END, PAD, Trajectories


def play(setting: Setting, **options) -> Rollout:
    return rollout(*setting.models, **{"slate_size": SLATE, "max_steps": CAP, "seed": 1, **options})


def unfinished(setting: Setting, lengths: Tensor) -> Trajectories:
    """Clicks without END: sessions of the given lengths, with starts both BOS and items."""
    generator = torch.Generator().manual_seed(5)
    count, horizon = len(lengths), int(lengths.max())
    order = torch.rand(count, horizon, ITEMS, generator=generator).argsort(-1)[..., :SLATE]
    place = torch.randint(SLATE, (count, horizon, 1), generator=generator)
    counted = torch.arange(horizon) < lengths[:, None]
    clicks = order.gather(2, place)[..., 0]
    rewards = torch.rand(count, horizon, generator=generator).round() if setting.reward == "binary" else counted.float()
    return Trajectories(
        start=torch.where(torch.arange(count) % 2 == 0, BOS, torch.arange(count) % ITEMS),
        slates=torch.where(counted[..., None], order, PAD),
        clicks=torch.where(counted, clicks, PAD),
        rewards=torch.where(counted, rewards, 0.0),
        lengths=lengths,
        censored=torch.ones(count, dtype=torch.bool),
    )


def assert_same(a: Rollout, b: Rollout) -> None:
    for name in ("start", "slates", "clicks", "rewards", "lengths", "censored"):
        assert torch.equal(getattr(a.trajectories, name), getattr(b.trajectories, name)), name
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-5, atol=1e-6)
    if a.q is not None:
        torch.testing.assert_close(a.q, b.q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reward", ["survival", "binary"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_fresh_sessions(cell, reward):
    setting = Setting(cell, reward, layers=2)
    made = play(setting, sessions=80, completions=3)
    trajectories = made.trajectories
    trajectories.validate(ITEMS)
    assert len(trajectories) == 80 and bool((trajectories.start == BOS).all())
    assert trajectories.horizon == int(trajectories.lengths.max())
    assert made.q.shape == trajectories.clicks.shape
    with torch.no_grad():
        torch.testing.assert_close(
            made.scores, torch.sigmoid(setting.discriminator(trajectories)), rtol=1e-5, atol=1e-6
        )
    assert torch.equal(made.q.gather(1, trajectories.lengths[:, None] - 1)[:, 0], made.scores)
    assert_same(made, play(setting, sessions=80, completions=3, impl="reference"))
    assert_same(made, play(setting, sessions=80, completions=3, share=False))
    assert_same(made, play(setting, start=torch.full((80,), BOS), completions=3))


def test_sessions_start_from_their_symbols():
    setting = Setting(layers=1)
    start = torch.tensor([BOS, 4, 4, 12, BOS])
    made = play(setting, start=start)
    assert torch.equal(made.trajectories.start, start)
    assert_same(made, play(setting, start=start, impl="reference"))
    with torch.no_grad():
        expected = torch.sigmoid(setting.discriminator(made.trajectories))
    torch.testing.assert_close(made.scores, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(play(setting, start=start.flip(0)).trajectories.slates[1:4], made.trajectories.slates[1:4])


def test_rows_are_keyed_from_first_row():
    setting = Setting(layers=1)
    whole = play(setting, sessions=30).trajectories
    part = play(setting, sessions=12, first_row=18).trajectories
    expected = whole.select(torch.arange(18, 30))
    assert torch.equal(part.clicks, expected.clicks) and torch.equal(part.slates, expected.slates)


@pytest.mark.parametrize("reward", ["survival", "binary"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_continued_prefixes_are_scored_as_if_encoded_anew(cell, reward):
    setting = Setting(cell, reward, layers=2)
    prefix = unfinished(setting, torch.arange(60) % (CAP - 1))
    made = play(setting, prefix=prefix, completions=2)
    trajectories = made.trajectories
    trajectories.validate(ITEMS)
    assert 0 < int(trajectories.censored.sum()) < 60
    assert bool((trajectories.lengths > prefix.lengths).all())
    counted = prefix.step_mask()
    shared = slice(0, prefix.horizon)
    for name in ("slates", "clicks", "rewards"):
        assert torch.equal(getattr(trajectories, name)[:, shared][counted], getattr(prefix, name)[counted]), name
    with torch.no_grad():
        torch.testing.assert_close(
            made.scores, torch.sigmoid(setting.discriminator(trajectories)), rtol=1e-5, atol=1e-6
        )
    assert bool((made.q[:, shared][counted] == 1).all())
    assert torch.equal(made.q.gather(1, trajectories.lengths[:, None] - 1)[:, 0], made.scores)
    assert bool((made.q[~trajectories.step_mask()] == 0).all())
    assert_same(made, play(setting, prefix=prefix, completions=2, impl="reference"))


def test_a_session_cut_and_continued_goes_on_as_it_did():
    """Noise is keyed by row and absolute step, states by history: the same session comes out."""
    setting = Setting(layers=2)
    whole = play(setting, sessions=50).trajectories
    kept = whole.select(whole.lengths > 2)
    rows = (whole.lengths > 2).nonzero()[:, 0]
    for i, row in enumerate(rows.tolist()):
        one = kept.select(torch.tensor([i]))
        two = torch.tensor([2])
        prefix = Trajectories(
            one.start, one.slates[:, :2], one.clicks[:, :2], one.rewards[:, :2], two, torch.ones(1, dtype=torch.bool)
        )
        again = play(setting, prefix=prefix, first_row=row).trajectories
        assert torch.equal(again.clicks, one.clicks) and torch.equal(again.slates, one.slates)
    assert len(rows) > 5


def test_prefixes_with_wider_slates():
    setting = Setting(layers=1)
    prefix = unfinished(setting, torch.tensor([1, 3]))
    made = play(setting, prefix=prefix, slate_size=2)
    made.trajectories.validate(ITEMS)
    assert made.trajectories.slate_size == SLATE
    assert bool((made.trajectories.slates[0, 1, 2:] == PAD).all())
    wider = play(setting, prefix=prefix, slate_size=6)
    wider.trajectories.validate(ITEMS)
    assert bool((wider.trajectories.slates[1, :3, SLATE:] == PAD).all())


@pytest.mark.parametrize("width", [2, SLATE, 6])
def test_prefixes_without_steps_are_fresh_sessions(width):
    setting = Setting(layers=1)
    start = torch.tensor([BOS, 3, BOS])
    nothing = torch.zeros(3, 0)
    empty = Trajectories(
        start=start,
        slates=torch.full((3, 0, width), PAD),
        clicks=nothing.long(),
        rewards=nothing,
        lengths=torch.zeros(3, dtype=torch.long),
        censored=torch.ones(3, dtype=torch.bool),
    )
    fresh = play(setting, start=start, completions=2)
    made = play(setting, prefix=empty, completions=2)
    slates = made.trajectories.slates
    beyond = slates[..., SLATE:]
    assert beyond.shape[2] == max(0, width - SLATE) and bool((beyond == PAD).all())
    assert_same(replace(made, trajectories=replace(made.trajectories, slates=slates[..., :SLATE])), fresh)
    for part in (slates, made.trajectories.clicks, made.trajectories.rewards, made.q):
        assert part.is_contiguous()


def test_without_discriminator_or_completions():
    setting = Setting(layers=1)
    options = dict(slate_size=SLATE, max_steps=CAP, sessions=9, seed=1)
    bare = rollout(setting.user, setting.agent, **options)
    assert bare.scores is None and bare.q is None
    plain = play(setting, sessions=9)
    assert plain.q is None and plain.scores.shape == (9,)
    assert torch.equal(bare.trajectories.clicks, plain.trajectories.clicks)


@pytest.mark.parametrize("options", [dict(sessions=0), dict(start=torch.arange(0))])
def test_no_sessions(options):
    made = play(Setting(layers=1), completions=2, **options)
    assert len(made.trajectories) == 0 and made.q.shape == (0, 0) and made.scores.shape == (0,)


def test_dropout_is_off_and_modes_are_restored():
    torch.manual_seed(0)
    shape = ITEMS, 5, 7, 2, "gru", 0.5
    models = UserModel(*shape), Agent(*shape), Discriminator(*shape)
    prefix = unfinished(Setting(), torch.tensor([1, 2, 4, 0]))
    options = dict(slate_size=SLATE, max_steps=CAP, prefix=prefix, completions=2, seed=3)
    made = []
    for training in (True, True, False):
        for model in models:
            model.train(training)
        models[0].encoder.dropout.eval()
        state = torch.get_rng_state()
        made.append(rollout(*models, **options))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(m.training == training for m in models) and models[1].encoder.rnn.training == training
        assert not models[0].encoder.dropout.training
    assert_same(made[0], made[1])
    assert_same(made[0], made[2])


def test_gradients_of_generated_sessions_reach_every_parameter():
    setting = Setting("lstm", "binary", layers=2)
    made = play(setting, sessions=40, completions=2)
    assert not made.q.requires_grad and not made.scores.requires_grad
    trajectories = made.trajectories
    clicks, rewards = setting.user(trajectories)
    agent_log_probs = setting.agent(trajectories)
    assert bool((clicks[trajectories.step_mask()] < 0).all())
    (-(made.q * (clicks + rewards + agent_log_probs)).sum()).backward()
    for model in (setting.user, setting.agent):
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
            assert bool(parameter.grad.abs().sum() > 0), name


OPTIONS = dict(slate_size=SLATE, max_steps=CAP, seed=1)
BAD = [
    (dict(), "sessions, start, prefix: exactly one must be given"),
    (dict(sessions=2, start=torch.tensor([BOS])), "sessions, start, prefix: exactly one must be given"),
    (dict(sessions=-1), "sessions must be at least 0, got -1"),
    (dict(start=torch.tensor([BOS, ITEMS])), "symbols[1] must be in 0..C - 1 (C = 13) or BOS, got 13"),
    (dict(start=torch.tensor([END])), "symbols[0] must be in 0..C - 1 (C = 13) or BOS, got -2"),
    (dict(sessions=2, slate_size=14), "slate_size must be in 1..C (C = 13), got 14"),
    (dict(sessions=2, max_steps=0), "max_steps must be in 1..65535, got 0"),
    (dict(sessions=2, first_row=-1), "rows[0] must be in 0..2^40 - 1, got -1"),
    (dict(sessions=2, impl="fast"), "impl must be 'native' or 'reference', got 'fast'"),
    (
        dict(sessions=2, generator=torch.Generator()),
        "generator must be None where seed is given",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[f"{n}: {m}" for n, (_, m) in enumerate(BAD)])
def test_broken_rules(options, message):
    with pytest.raises(ValueError) as error:
        play(Setting(layers=1), **options)
    assert str(error.value) == message


def test_models_that_do_not_fit_together():
    shape = ITEMS, 5, 7, 1
    user, agent = UserModel(*shape), Agent(*shape)
    with pytest.raises(ValueError, match="^completions must be 0 without a discriminator, got 3$"):
        rollout(user, agent, sessions=1, completions=3, **OPTIONS)
    with pytest.raises(ValueError, match=r"^user\[0\] must have shape \[16, 5\], got \[15, 5\]$"):
        rollout(user, Agent(ITEMS + 1, 5, 7, 1), sessions=1, **OPTIONS)
    with pytest.raises(ValueError, match=r"^user\[1\.\.\] must have shape \[28, 5\], got \[21, 5\]$"):
        rollout(user, Agent(*shape, "lstm"), sessions=1, **OPTIONS)
    with pytest.raises(ValueError, match="^discriminator must hold 7 tensors, got 9$"):
        rollout(user, agent, Discriminator(*shape, reward="binary"), sessions=1, **OPTIONS)


def test_finished_prefixes_are_refused():
    setting = Setting(layers=1)
    message = f"^prefix must hold unfinished sessions shorter than max_steps = {CAP}$"
    finished = play(setting, sessions=20).trajectories
    with pytest.raises(ValueError, match=message):
        play(setting, prefix=finished.select(~finished.censored))
    with pytest.raises(ValueError, match=message):
        play(setting, prefix=unfinished(setting, torch.tensor([1, CAP])))
