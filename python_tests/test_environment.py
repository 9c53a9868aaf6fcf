"""The gymnasium environments: interface, law, autoreset."""

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from irecgan_ext.simulators import MDP, policy_values
from irecgan_ext.simulators.environment import RecommendationEnv, RecommendationVectorEnv, SlateSpace

ITEMS, SIZE = 8, 3


@pytest.fixture
def mdp() -> MDP:
    return MDP.random(states=4, items=ITEMS, seed=1)


def everlasting(items: int = ITEMS) -> MDP:
    return MDP(torch.ones(2, items, dtype=torch.float64), MDP.random(states=2, items=items).transitions)


@pytest.mark.parametrize("max_steps", [None, 2])
def test_environment_passes_the_checker(mdp, max_steps) -> None:
    check_env(RecommendationEnv(mdp, SIZE, max_steps), skip_render_check=True)


@pytest.mark.parametrize("num_envs", [None, 5])
def test_slate_space_samples_what_it_contains(num_envs) -> None:
    space = SlateSpace(ITEMS, SIZE, num_envs, seed=0)
    assert space.shape == ((SIZE,) if num_envs is None else (num_envs, SIZE))
    samples = np.stack([space.sample() for _ in range(2_000)])
    assert all(space.contains(sample) for sample in samples[:50])
    counts = np.bincount(samples.ravel(), minlength=ITEMS)
    expected = samples.size / ITEMS
    assert counts.sum() == samples.size
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi-square(7), p = 1e-3


def test_slate_space_excludes_repetitions_and_strangers() -> None:
    space = SlateSpace(ITEMS, SIZE)
    assert space.contains(np.array([7, 0, 3]))
    for slate in ([7, 0, 7], [7, 0, ITEMS], [-1, 0, 3], [7, 0]):
        assert not space.contains(np.array(slate))
    with pytest.raises(ValueError, match="mask and probability must be None"):
        space.sample(mask=(np.ones(ITEMS, dtype=np.int8),) * SIZE)


def test_observation_is_the_last_symbol(mdp) -> None:
    env = RecommendationEnv(mdp, SIZE)
    observation, info = env.reset(seed=0)
    assert observation == ITEMS + 1
    assert info == {"state": 0}
    for _ in range(200):
        slate = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(slate)
        assert (observation, reward) == (ITEMS, 0.0) if terminated else observation in slate and reward == 1.0
        assert not truncated
        if terminated:
            env.reset()


def test_environment_has_the_simulators_value(mdp) -> None:
    env, slate, returns = RecommendationEnv(mdp, SIZE), np.array([4, 1, 6]), []
    env.reset(seed=3)
    for _ in range(4_000):
        total, ended = 0.0, False
        while not ended:
            _, reward, ended, _, _ = env.step(slate)
            total += reward
        returns.append(total)
        env.reset()
    exact = float(policy_values(mdp, torch.tensor(slate).expand(4, -1))[0])
    assert abs(np.mean(returns) - exact) < 3.3 * np.std(returns) / 4_000**0.5


def test_cap_truncates_and_does_not_terminate() -> None:
    env = RecommendationEnv(everlasting(), SIZE, max_steps=3)
    env.reset(seed=0)
    flags = [env.step(np.arange(SIZE))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]


def test_steps_outside_a_session_are_refused(mdp) -> None:
    env = RecommendationEnv(mdp, SIZE, max_steps=1)
    with pytest.raises(ResetNeeded):
        env.step(np.arange(SIZE))
    env.reset(seed=0)
    env.step(np.arange(SIZE))
    with pytest.raises(ResetNeeded):
        env.step(np.arange(SIZE))
    with pytest.raises(ResetNeeded):
        RecommendationVectorEnv(mdp, 2, SIZE).step(np.zeros((2, SIZE), dtype=np.int64))


@pytest.mark.parametrize(
    ("slate", "message"),
    [
        ([0, 1, 1], r"slates must hold distinct items in 0..C-1 \(C = 8\), got \[0, 1, 1\]"),
        ([0, 1, 8], r"slates must hold distinct items in 0..C-1 \(C = 8\), got \[0, 1, 8\]"),
        ([0, 1], r"action must be integers of shape \(3,\), got int64 of shape \(2,\)"),
        ([0.0, 1.0, 2.0], r"action must be integers of shape \(3,\), got float64 of shape \(3,\)"),
    ],
)
def test_invalid_slates_are_refused(mdp, slate, message) -> None:
    env = RecommendationEnv(mdp, SIZE)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(np.array(slate))


def test_invalid_arguments_are_refused(mdp) -> None:
    with pytest.raises(ValueError, match=r"slate_size must be in 1..C \(C = 8\), got 9"):
        RecommendationEnv(mdp, 9)
    with pytest.raises(ValueError, match="max_steps must be at least 1 or None, got 0"):
        RecommendationEnv(mdp, SIZE, max_steps=0)
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        RecommendationVectorEnv(mdp, 0, SIZE)


def test_vector_environment_restarts_on_the_next_step(mdp) -> None:
    n = 64
    envs = RecommendationVectorEnv(mdp, n, SIZE, max_steps=3)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, infos = envs.reset(seed=5)
    assert observations.tolist() == [ITEMS + 1] * n
    assert infos["state"].tolist() == [0] * n
    envs.action_space.seed(0)
    ended, steps = np.zeros(n, dtype=bool), np.zeros(n, dtype=int)
    seen = {"terminated": 0, "truncated": 0}
    for _ in range(60):
        actions = envs.action_space.sample()
        actions[ended] = 0  # not a slate: it must be ignored
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        assert observations in envs.observation_space
        assert infos["_state"].all()
        assert (observations[ended] == ITEMS + 1).all()
        assert (infos["state"][ended] == 0).all()
        assert not rewards[ended].any()
        assert not terminated[ended].any()
        assert not truncated[ended].any()
        steps = np.where(ended, 0, steps + 1)
        played = ~ended
        assert np.array_equal(observations == ITEMS, terminated)
        assert np.array_equal(rewards == 1, played & ~terminated)
        assert all(observations[i] in actions[i] for i in np.flatnonzero(rewards))
        assert np.array_equal(truncated, played & ~terminated & (steps == 3))
        seen["terminated"] += int(terminated.sum())
        seen["truncated"] += int(truncated.sum())
        ended = terminated | truncated
    assert min(seen.values()) > 50


def test_vector_environment_of_one_plays_the_same_session() -> None:
    mdp = MDP.random(states=4, items=ITEMS, seed=2)
    single, vector = RecommendationEnv(mdp, SIZE), RecommendationVectorEnv(mdp, 1, SIZE)
    for seed in range(20):
        single.reset(seed=seed)
        vector.reset(seed=seed)
        ended = False
        while not ended:
            slate = single.action_space.sample()
            observation, reward, ended, _, info = single.step(slate)
            observations, rewards, terminated, _, infos = vector.step(slate[None])
            assert (observation, reward, ended) == (observations[0], rewards[0], terminated[0])
            assert info["state"] == infos["state"][0]


def test_vector_environment_has_the_simulators_value(mdp) -> None:
    envs = RecordEpisodeStatistics(RecommendationVectorEnv(mdp, 500, SIZE), buffer_length=100_000)
    envs.reset(seed=1)
    actions = np.tile(np.array([4, 1, 6]), (500, 1))
    for _ in range(200):
        envs.step(actions)
    returns = np.array(envs.return_queue)
    exact = float(policy_values(mdp, torch.tensor([4, 1, 6]).expand(4, -1))[0])
    assert len(returns) > 10_000
    assert abs(returns.mean() - exact) < 3.3 * returns.std() / len(returns) ** 0.5


def test_vector_environment_checks_the_slates_it_plays(mdp) -> None:
    envs = RecommendationVectorEnv(mdp, 2, SIZE)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"got \[2, 2, 3\]"):
        envs.step(np.array([[0, 1, 2], [2, 2, 3]]))
    with pytest.raises(ValueError, match=r"action must be integers of shape \(2, 3\)"):
        envs.step(np.array([0, 1, 2]))
