"""The native rollout: agreement with its reference, invariances, exact laws, work done and errors."""

import importlib.util
import itertools
import json
import math
import threading
from pathlib import Path

import pytest
import torch
from laws import chi_squared_p, count_draws, plackett_luce
from settings import CAP, ITEMS, SLATE, Setting, as_trajectories, bias_end, mixed_prefix
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.types import BOS, END, PAD

SAMPLES = ("slates", "clicks", "rewards", "lengths", "censored")
FLOATS = ("scores", "q")


def assert_same(a: ops.RolloutOutput, b: ops.RolloutOutput) -> None:
    """The same samples, and the same scores up to rounding."""
    for name in SAMPLES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in FLOATS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)


CASES = list(itertools.product(("gru", "lstm"), ("survival", "binary"), (1, 2), (0, 3)))


@pytest.mark.parametrize("mixed", [False, True], ids=["fresh", "prefixes"])
@pytest.mark.parametrize(("cell", "reward", "layers", "completions"), CASES)
def test_agrees_with_the_reference(cell, reward, layers, completions, mixed):
    setting = Setting(cell, reward, layers=layers)
    rows = torch.arange(40) + 2**35
    prefix = mixed_prefix(setting, 40) if mixed else None
    expected = setting.native(rows, completions, prefix=prefix, impl="reference")
    played = int(expected.work[0])
    for share in (True, False):
        out = setting.native(rows, completions, prefix=prefix, share=share)
        assert_same(out, expected)
        row_steps, states, projected, iterations = out.work.tolist()
        assert (row_steps, iterations) == (played, int(expected.work[3]))
        assert projected == 3 * states
        assert states < row_steps if share else states == row_steps
    assert 0 < int(expected.censored.sum()) < 40
    assert [x.dtype for x in out] == [x.dtype for x in expected]
    assert [x.shape for x in out] == [x.shape for x in expected]


def test_prefix_states_symbols_and_sums_matter():
    setting = Setting(layers=1)
    rows = torch.arange(40)
    states, symbols, steps, sums, index = mixed_prefix(setting, 40)
    out = setting.native(rows, prefix=(states, symbols, steps, sums, index))
    other_states = setting.native(rows, prefix=(states, symbols, steps, sums, (index + 1) % 4))
    assert not torch.equal(out.slates, other_states.slates)
    other_symbols = setting.native(rows, prefix=(states, symbols.clamp(min=5), steps, sums, index))
    assert not torch.equal(out.slates, other_symbols.slates)
    raised = setting.native(rows, prefix=(states, symbols, steps, sums + 2.0, index))
    assert torch.equal(out.slates, raised.slates)
    total = steps + out.lengths
    expected = torch.sigmoid(torch.logit(out.scores.double()) + 2.0 / total).float()
    torch.testing.assert_close(raised.scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cell", "reward"), list(itertools.product(("gru", "lstm"), ("survival", "binary"))))
def test_scores_are_those_of_the_discriminator(cell, reward):
    setting = Setting(cell, reward, layers=2)
    out = setting.native(torch.arange(60), 2)
    trajectories = as_trajectories(out)
    trajectories.validate(ITEMS)
    torch.testing.assert_close(out.scores, torch.sigmoid(setting.discriminator(trajectories)), rtol=1e-5, atol=1e-6)
    last = (out.lengths - 1)[:, None]
    assert torch.equal(out.q.gather(1, last)[:, 0], out.scores)
    counted = trajectories.step_mask()
    assert bool((out.q[~counted] == 0).all())
    assert bool(((out.q[counted] > 0) & (out.q[counted] < 1)).all())
    plain = setting.native(torch.arange(60))
    torch.testing.assert_close(plain.q, torch.zeros(60, CAP).scatter(1, last, out.scores[:, None]))
    if reward == "survival":
        assert torch.equal(out.rewards, trajectories.click_mask().float())
    else:
        assert 0 < out.rewards.sum() < trajectories.click_mask().sum()


def test_completions_leave_the_sessions_as_they_are():
    setting = Setting(layers=1)
    plain, completed = setting.native(torch.arange(40)), setting.native(torch.arange(40), 5)
    for name in (*SAMPLES, "scores"):
        torch.testing.assert_close(getattr(plain, name), getattr(completed, name))


def test_without_a_discriminator_nothing_is_scored():
    setting = Setting(layers=1)
    scored, bare = setting.native(torch.arange(20)), setting.native(torch.arange(20), scored=False)
    for name in SAMPLES:
        assert torch.equal(getattr(scored, name), getattr(bare, name))
    assert not bool(bare.scores.any()) and not bool(bare.q.any())
    assert int(bare.work[2]) == 2 * int(bare.work[1])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_threads_and_batch_split_draw_the_same(cell):
    setting = Setting(cell, "binary", layers=2)
    rows = torch.arange(120)
    prefix = mixed_prefix(setting, 120)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(setting.native(rows, 2, prefix=prefix))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_same(other, results[0])
    states, *vectors = prefix
    for part in (torch.arange(1), torch.arange(1, 50), torch.arange(119, 49, -1)):
        out = setting.native(rows[part], 2, prefix=(states, *(v[part] for v in vectors)))
        whole = ops.RolloutOutput(*(x[part] for x in results[0][:-1]), out.work)
        assert_same(out, whole)


def test_randomness_is_keyed_by_seed_and_row():
    setting = Setting(layers=1)
    whole = setting.native(torch.arange(30))
    assert torch.equal(whole.clicks, setting.native(torch.arange(30)).clicks)
    assert not torch.equal(whole.clicks, setting.native(torch.arange(30), seed=2).clicks)
    assert not torch.equal(whole.clicks[:20], setting.native(torch.arange(10, 30)).clicks)
    arguments = setting.arguments(torch.arange(30)) | {"seed": None}
    torch.manual_seed(1)
    first, second = ops.rollout(**arguments), ops.rollout(**arguments)
    torch.manual_seed(1)
    assert torch.equal(ops.rollout(**arguments).clicks, first.clicks)
    assert not torch.equal(first.clicks, second.clicks)
    with pytest.raises(ValueError, match="^generator must be None where seed is given$"):
        ops.rollout(**(arguments | {"seed": 1}), generator=torch.Generator())


def test_strided_arguments():
    setting = Setting("lstm", "binary", layers=2)
    prefix = mixed_prefix(setting, 30)
    arguments = setting.arguments(torch.arange(30), 2, prefix=prefix)

    def strided(x: Tensor) -> Tensor:
        return torch.stack([x, x], -1)[..., 0] if x.dim() else x

    changed = {}
    for name, value in arguments.items():
        changed[name] = [strided(x) for x in value] if isinstance(value, list) else value
        if isinstance(value, Tensor):
            changed[name] = strided(value)
    assert not changed["user"][1].is_contiguous() and not changed["agent_state"].is_contiguous()
    assert_same(ops.rollout(**changed), ops.rollout(**arguments))


def test_outputs_carry_no_gradient_and_arguments_are_left_alone():
    setting = Setting(layers=1)
    arguments = setting.arguments(torch.arange(9), 2)
    before = {name: value.clone() for name, value in arguments.items() if isinstance(value, Tensor)}
    arguments["user"] = [p.clone().requires_grad_() for p in arguments["user"]]
    out = ops.rollout(**arguments)
    assert not any(x.requires_grad for x in out)
    assert all(torch.equal(arguments[name], value) for name, value in before.items())


def test_golden():
    file = Path(__file__).parent / "golden" / "rollout.py"
    spec = importlib.util.spec_from_file_location("golden_rollout", file)
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    expected = json.loads(golden.FILE.read_text())
    assert len(set(expected["lengths"])) > 1, "the golden sessions are too much alike"
    for impl in ("native", "reference"):
        out = golden.play(impl)
        for name in SAMPLES:
            assert out[name] == expected[name], f"{impl} {name}"
        for name in FLOATS:
            torch.testing.assert_close(torch.tensor(out[name]), torch.tensor(expected[name]), rtol=1e-5, atol=1e-6)
    assert golden.play("native")["work"] == expected["work"]


def test_everybody_leaves_at_once():
    setting = Setting(layers=2)
    bias_end(setting, 50.0)
    out = setting.native(torch.arange(9), completions=4)
    assert bool((out.lengths == 1).all()) and not bool(out.censored.any())
    assert bool((out.clicks[:, 0] == END).all()) and bool((out.clicks[:, 1:] == PAD).all())
    assert bool((out.slates[:, 0] >= 0).all()) and bool((out.slates[:, 1:] == PAD).all())
    assert bool((out.rewards == 0).all())
    assert torch.equal(out.q[:, 0], out.scores)
    assert out.work.tolist() == [9, 1, 3, 1]


@pytest.mark.parametrize("cap", [1, 2, 5])
def test_nobody_leaves_before_the_cap(cap):
    setting = Setting(layers=1)
    bias_end(setting, -50.0)
    out = setting.native(torch.arange(9), completions=2, cap=cap)
    assert bool((out.lengths == cap).all()) and bool(out.censored.all())
    assert bool((out.clicks >= 0).all()) and bool((out.rewards == 1).all())
    assert out.work.tolist()[::3] == [9 * (cap + 2 * sum(range(cap))), cap]


def test_an_end_on_the_last_step_is_no_censoring():
    setting = Setting(layers=1)
    out = setting.native(torch.arange(400), cap=2)
    last = out.clicks.gather(1, out.lengths[:, None] - 1)[:, 0]
    assert torch.equal(out.censored, last != END)
    assert bool(((out.lengths == 2) & ~out.censored).any()) and bool((out.lengths[out.censored] == 2).all())


def test_no_rows():
    out = Setting(layers=1).native(torch.arange(0), completions=2)
    assert [tuple(x.shape) for x in out] == [(0, CAP, SLATE), (0, CAP), (0, CAP), (0,), (0,), (0,), (0, CAP), (4,)]
    assert out.work.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("items", "held"), [(50_000, 2**22 // (2 * 782)), (1024, 2**22 // 1024)])
def test_more_states_than_are_projected_at_a_time(items, held):
    """Of a large catalogue two statistics per block of 64 are held, of a small one its logits, 2^22 numbers at most."""
    setting = Setting(layers=1, items=items)
    rows = torch.arange(held + 20)
    states = [m.encoder.initial_state(1) for m in setting.models]

    def play(part: Tensor, **options) -> ops.RolloutOutput:
        prefix = (states, (part * 7 + part // 1024) % items, torch.zeros_like(part), torch.zeros(len(part)))
        return setting.native(part, cap=1, slate=10, prefix=prefix, share=False, **options)

    out = play(rows)
    assert int(out.work[1]) == held + 20
    some = torch.tensor([0, held - 1, held, held + 1, held + 19])
    expected = play(some, impl="reference")
    assert torch.equal(out.slates[some], expected.slates) and torch.equal(out.clicks[some], expected.clicks)
    torch.testing.assert_close(out.scores[some], expected.scores, rtol=1e-5, atol=1e-6)


def test_one_state_per_distinct_click_history():
    setting = Setting(layers=1)
    out = setting.native(torch.arange(300))
    steps = [int((out.lengths > t).sum()) for t in range(CAP)]
    histories = [{tuple(c[:t]) for c, n in zip(out.clicks.tolist(), out.lengths.tolist()) if n > t} for t in range(CAP)]
    assert len(histories[0]) == 1
    assert out.work.tolist() == [sum(steps), sum(map(len, histories)), 3 * sum(map(len, histories)), CAP]
    assert sum(map(len, histories)) < 0.6 * sum(steps)
    completed = setting.native(torch.arange(300), completions=5)
    assert int(completed.work[1]) < 0.5 * int(completed.work[0])


def test_completions_differ_from_each_other():
    """With N completions q is their mean, and completion n is the same whatever N: so each one's score comes out."""
    setting = Setting(layers=1)
    rows = torch.arange(200)
    means = [setting.native(rows, completions=n).q.double() for n in range(1, 5)]
    scores = torch.stack([means[0], *(n * means[n - 1] - (n - 1) * means[n - 2] for n in range(2, 5))])
    going = setting.native(rows).lengths > 1
    first = scores[:, going, 0]
    assert first.shape[1] > 50
    equal = (first[:, None] - first[None]).abs() < 1e-6
    pairs = torch.triu_indices(4, 4, 1)
    assert equal[pairs[0], pairs[1]].double().mean() < 0.3


def test_q_is_the_mean_score_of_independent_sessions_from_the_same_prefix():
    setting = Setting(layers=2)
    count = 20_000
    out = setting.native(torch.arange(3), completions=count)
    row = int((out.lengths > 1).int().argmax())
    slate, click = out.slates[row, :1], out.clicks[row, :1]
    with torch.no_grad():
        states = [m.encoder.step(m.encoder.initial_state(1), torch.tensor([BOS])) for m in setting.models]
        d = setting.discriminator
        score = d.step_scores(d.encoder.output(states[2]), slate, click, torch.ones(1))
    rows = torch.arange(1_000, 1_000 + count)
    ones = torch.ones_like(rows)
    others = setting.native(rows, prefix=(states, ones * click, ones, score.expand(count)))
    deviation = others.scores.double().std().item()
    assert deviation > 0
    assert abs(out.q[row, 0].item() - others.scores.double().mean().item()) < 4 * deviation * math.sqrt(2 / count)


def test_clicks_and_rewards_follow_their_probabilities():
    setting = Setting(reward="binary", items=4, layers=1)
    out = setting.native(torch.arange(50_000), slate=4, cap=1, scored=False)
    slate = torch.arange(4)
    with torch.no_grad():
        state = setting.user.encoder(torch.tensor([[BOS]]))[0, 0]
        probabilities = setting.user.click_logits(state, slate).softmax(-1)
        rewarding = torch.sigmoid(setting.user.reward_logits(state.expand(4, -1), slate)).double()
    clicks, rewards = out.clicks[:, 0], out.rewards[:, 0]
    assert chi_squared_p(torch.bincount(torch.where(clicks == END, 4, clicks), minlength=5), probabilities) > 1e-3
    for item in range(4):
        earned, p = rewards[clicks == item], rewarding[item].item()
        assert abs(earned.mean().item() - p) < 4 * math.sqrt(p * (1 - p) / len(earned))
    for place in range(4):
        shown = out.slates[:, 0, place]
        taken = torch.bincount(shown[clicks == shown], minlength=4)
        p = taken.double() / torch.bincount(shown, minlength=4)
        assert bool(((p - probabilities[:4]).abs() < 0.02).all()), "clicks depend on the place in the slate"


def test_slates_follow_the_agent():
    """Ordered slates of five possible items in three blocks of the race."""
    places = [0, 63, 64, 100, 129]
    setting = Setting(items=130, layers=1)
    with torch.no_grad():
        excluded = torch.ones(130, dtype=torch.bool)
        excluded[places] = False
        setting.agent.head.bias[excluded] = -torch.inf
        logits = setting.agent.logits(setting.agent.encoder(torch.tensor([[BOS]]))[0, 0])
    out = setting.native(torch.arange(30_000), slate=2, cap=1, scored=False)
    draws, probabilities = plackett_luce(logits, 2)
    assert len(draws) == 20
    assert chi_squared_p(count_draws(out.slates[:, 0], draws), probabilities) > 1e-3


def test_other_threads_run_meanwhile():
    setting = Setting(layers=1, items=3_000)
    stop, ticks = threading.Event(), []

    def tick() -> None:
        while not stop.wait(0.001):
            ticks.append(None)

    thread = threading.Thread(target=tick)
    thread.start()
    before = len(ticks)
    setting.native(torch.arange(2_000), completions=3, share=False)
    during = len(ticks) - before
    stop.set()
    thread.join()
    assert during >= 10
