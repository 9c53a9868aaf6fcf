"""Propensities of the logging policies: their laws, and the columns that keep them."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from laws import chi_squared_p

from irecgan_ext import cli
from irecgan_ext.data.propensities import read_propensities
from irecgan_ext.data.sessions import read_sessions, write_sessions
from irecgan_ext.errors import LogError
from irecgan_ext.simulate import SimulateOptions, main
from irecgan_ext.simulators import (
    MDP,
    FixedPolicy,
    MaxPolicy,
    MixPolicy,
    Policy,
    RandomPolicy,
    SoftmaxPolicy,
    simulate,
    simulate_logged,
)
from irecgan_ext.types import Propensities

ITEMS, SIZE, STATES = 11, 3, 3


def policies() -> dict[str, Policy]:
    mdp = MDP.random(STATES, ITEMS, seed=5)
    return {
        "random": RandomPolicy(ITEMS, SIZE),
        "max": MaxPolicy(mdp, SIZE),
        "mix": MixPolicy(mdp, SIZE),
        "softmax": SoftmaxPolicy(mdp, SIZE, 0.3),
    }


def every_slate(state: int) -> tuple[torch.Tensor, torch.Tensor]:
    slates = torch.tensor(list(itertools.permutations(range(ITEMS), SIZE)))
    return torch.full((len(slates),), state), slates


@pytest.mark.parametrize("name", ["random", "max", "mix", "softmax"])
def test_the_three_propensities_agree_over_every_slate(name: str) -> None:
    states, slates = every_slate(2)
    told = policies()[name].propensities(states, slates)
    assert told is not None
    assert told.pscore_item_position is not None
    assert told.pscore_cascade is not None
    law = told.pscore
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    code = torch.zeros(len(slates), dtype=torch.int64)
    for place in range(SIZE):
        marginal = torch.zeros(ITEMS, dtype=torch.float64).index_add(0, slates[:, place], law)[slates[:, place]]
        torch.testing.assert_close(told.pscore_item_position[:, place], marginal, rtol=1e-8, atol=1e-15)
        code = code * ITEMS + slates[:, place]
        prefix = torch.zeros(ITEMS**SIZE, dtype=torch.float64).index_add(0, code, law)[code]
        torch.testing.assert_close(told.pscore_cascade[:, place], prefix, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["random", "max", "mix", "softmax"])
def test_slates_are_drawn_as_often_as_the_propensities_say(name: str) -> None:
    policy, draws = policies()[name], 60_000
    policy.begin(draws, seed=4)
    states, slates = every_slate(1)
    told = policy.propensities(states, slates)
    assert told is not None
    drawn = policy.recommend(torch.arange(draws), torch.ones(draws, dtype=torch.int64))
    place = torch.full((ITEMS**SIZE,), -1)
    place[slates @ torch.tensor([ITEMS**2, ITEMS, 1])] = torch.arange(len(slates))
    counts = place[drawn @ torch.tensor([ITEMS**2, ITEMS, 1])].bincount(minlength=len(slates))
    possible = told.pscore > 0
    assert int(counts[~possible].sum()) == 0
    assert int(possible.sum()) == 1 or chi_squared_p(counts[possible], told.pscore[possible]) > 1e-3


def test_a_simulated_log_keeps_its_propensities(tmp_path: Path) -> None:
    mdp = MDP.random(STATES, ITEMS, seed=5)
    policy = SoftmaxPolicy(mdp, SIZE, 0.3)
    log, told = simulate_logged(mdp, policy, 40, slate_size=SIZE, seed=6)
    assert told is not None
    assert torch.equal(log.slates, simulate(mdp, policy, 40, slate_size=SIZE, seed=6).slates)
    counted = log.step_mask()
    assert log.states is not None
    expected = policy.propensities(log.states[counted], log.slates[counted])
    assert expected is not None
    path = tmp_path / "log.parquet"
    write_sessions(path, log, ITEMS, propensities=told)
    table = pq.read_table(path)
    back = table.take(torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).numpy())
    pq.write_table(back, tmp_path / "shuffled.parquet")
    for name in ("log.parquet", "shuffled.parquet"):
        read = read_propensities(tmp_path / name, read_sessions(tmp_path / name).trajectories)
        assert read is not None
        for field in fields(Propensities):
            value = getattr(read, field.name)
            torch.testing.assert_close(value[counted], getattr(expected, field.name), rtol=1e-12, atol=0)
            assert bool((value[~counted] == 1).all())
    assert simulate_logged(mdp, FixedPolicy(torch.arange(SIZE)), 3, slate_size=SIZE, seed=1)[1] is None


def test_short_slates_keep_short_lists(tmp_path: Path) -> None:
    mdp = MDP.random(STATES, ITEMS, seed=5)
    log, told = simulate_logged(mdp, RandomPolicy(ITEMS, SIZE), 10, slate_size=SIZE, seed=6)
    assert told is not None
    slates = log.slates.clone()
    filler = (slates[:, :, 0] != log.clicks) & (log.clicks >= 0)
    slates[:, :, 0][filler] = -1
    write_sessions(tmp_path / "log", replace(log, slates=slates), ITEMS, propensities=told)
    sessions = read_sessions(tmp_path / "log").trajectories
    with pytest.raises(LogError, match="row 0: the last of pscore_cascade must be pscore|pscore_cascade"):
        wrong = pq.read_table(tmp_path / "log")
        pscores = pa.array([0.5] * len(wrong))
        pq.write_table(wrong.set_column(wrong.column_names.index("pscore"), "pscore", pscores), tmp_path / "wrong")
        read_propensities(tmp_path / "wrong", sessions)
    table = pq.read_table(tmp_path / "log")
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).numpy()
    pq.write_table(table.take(order), tmp_path / "shuffled")
    session, step = filler.nonzero()[0].tolist()
    for name in ("log", "shuffled"):
        read = read_propensities(tmp_path / name, sessions)
        assert read is not None
        assert read.pscore_cascade is not None
        assert told.pscore_cascade is not None
        assert read.pscore_cascade[session, step].tolist() == [*told.pscore_cascade[session, step, 1:].tolist(), 1]


def _set(table: pa.Table, column: str, values: list) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, pa.array(values))


BAD = {
    "zero": ("pscore", lambda old: [old[0], 0.0, *old[2:]], "row 1: pscore must be in (0, 1], got 0"),
    "null": ("pscore", lambda old: [None, *old[1:]], "row 0: pscore must be in (0, 1], got nan"),
    "above 1": ("pscore", lambda old: [old[0], old[1], 1.5, *old[3:]], "row 2: pscore must be in (0, 1], got 1.5"),
    "integers": ("pscore", lambda old: [1] * len(old), "column pscore must hold float64, got int64"),
    "length": (
        "pscore_cascade",
        lambda old: [old[0], old[1][:2], *old[2:]],
        "row 1: pscore_cascade must be as long as the slate",
    ),
    "no list": ("pscore_item_position", lambda old: [1.0] * len(old), "must be list<float64>, got double"),
    "in a list": (
        "pscore_item_position",
        lambda old: [old[0], [0.1, 2.0, 0.1], *old[2:]],
        "row 1: pscore_item_position must be in (0, 1], got 2",
    ),
    "not the last": ("pscore", lambda old: [old[0], old[1] / 2, *old[2:]], "row 1: the last of pscore_cascade must be"),
}


@pytest.mark.parametrize(("column", "change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_columns_are_refused(tmp_path: Path, column: str, change, message: str) -> None:
    path = tmp_path / "log.parquet"
    arguments = ["--out", str(path), "--sessions", "5", "--slate-size", "3", "--policy", "softmax"]
    assert cli.run_command(main, SimulateOptions, prog="simulate", args=arguments) == 0
    table = pq.read_table(path)
    pq.write_table(_set(table, column, change(table[column].to_pylist())), path)
    with pytest.raises(LogError) as error:
        read_propensities(path, read_sessions(path).trajectories)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


def test_logs_without_propensities(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    arguments = ["--out", str(path), "--sessions", "5", "--no-propensities"]
    assert cli.run_command(main, SimulateOptions, prog="simulate", args=arguments) == 0
    assert read_propensities(path, read_sessions(path).trajectories) is None


def test_a_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        SoftmaxPolicy(MDP.random(), 3, 0)
