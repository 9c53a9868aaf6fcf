"""Readers of the authors' simulator files, on files made here."""

import pytest
import torch

from irecgan_ext.data.authors import read_authors_log, read_authors_mdp
from irecgan_ext.errors import LogError
from irecgan_ext.simulators import MDP
from irecgan_ext.types import BOS, END, PAD

SCORE = "0.5 0.25 1\n0 0.75 0.125\n"
PROB = "0.5 0.5\n0.25 0.75\n1 0\n=====\n0 1\n0.125 0.875\n0.5 0.5\n=====\n"
LOG = "1;0;0;;0\n1;1;2;0,2;0\n1;0;1;1,0,2;0\n2;0;0;;0\n5;0;0;;0\n5;1;0;2,0;1\n"


def write_mdp(folder, score: str = SCORE, prob: str = PROB):
    (folder / "score.txt").write_text(score)
    (folder / "prob.txt").write_text(prob)
    return folder


def test_mdp_blocks_are_states_and_rows_items(tmp_path) -> None:
    rewards, transitions = read_authors_mdp(write_mdp(tmp_path))
    assert rewards.tolist() == [[0.5, 0.25, 1.0], [0.0, 0.75, 0.125]]
    assert transitions.dtype == torch.float64
    assert transitions.shape == (2, 3, 2)
    assert transitions[0].tolist() == [[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]
    assert transitions[1].tolist() == [[0.0, 1.0], [0.125, 0.875], [0.5, 0.5]]
    MDP(rewards, transitions)


def test_mdp_may_lack_the_last_separator_and_hold_empty_lines(tmp_path) -> None:
    prob = PROB.removesuffix("=====\n").replace("=====", "\n==\n")
    expected = read_authors_mdp(write_mdp(tmp_path))
    for got, want in zip(read_authors_mdp(write_mdp(tmp_path, prob=prob)), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("score", "prob", "message"),
    [
        ("0.5 0.25 1\n0 0.75\n", PROB, "score.txt: row 2: must hold 3 numbers, got 2"),
        ("0.5 x 1\n", PROB, "score.txt: row 1: must hold numbers separated by spaces"),
        ("0.5 1.5 1\n", PROB, "score.txt: row 1: numbers must be in 0..1, got 1.5"),
        ("0.5 nan 1\n", PROB, "score.txt: row 1: numbers must be in 0..1, got nan"),
        ("\n", PROB, "score.txt: must hold at least one row of numbers"),
        (SCORE, PROB.replace("0.125 0.875", "0.125 0.8"), "prob.txt: row 6: probabilities must sum to 1, got 0.925"),
        (SCORE, PROB.replace("1 0\n", "1 0 0\n"), "prob.txt: row 3: must hold 2 numbers, got 3"),
        (SCORE, PROB.replace("1 0\n", ""), "prob.txt: must hold 2 blocks of 3 rows, got 5 rows"),
        (SCORE, PROB.replace("1 0\n=====\n", "=====\n1 0\n"), "prob.txt: a line of = must follow every 3 rows"),
    ],
)
def test_bad_mdp_files_are_one_line_errors(tmp_path, score, prob, message) -> None:
    with pytest.raises(LogError) as caught:
        read_authors_mdp(write_mdp(tmp_path, score, prob))
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_log_becomes_censored_sessions_from_bos(tmp_path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(LOG)
    log = read_authors_log(path)
    log.validate(items=3)
    assert log.start.tolist() == [BOS, BOS]  # session 2 has no step
    assert log.lengths.tolist() == [2, 1]
    assert log.censored.tolist() == [True, True]
    assert log.slates.tolist() == [[[0, 2, PAD], [1, 0, 2]], [[2, 0, PAD], [PAD, PAD, PAD]]]
    assert log.clicks.tolist() == [[2, 1], [0, PAD]]
    assert log.rewards.dtype == torch.float32
    assert log.rewards.tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert log.states.tolist() == [[0, 1], [0, PAD]]  # before the click; the file gives the state after it


def test_ends_are_put_back(tmp_path) -> None:
    """Each session gets the step that its user left on, with a slate that the log shows in that step's state."""
    path = tmp_path / "log.txt"
    path.write_text("1;0;0;;0\n1;1;2;0,2;0\n1;0;0;1,0;0\n2;0;0;;0\n3;0;0;;0\n3;0;1;1,2;0\n3;5;1;2,1;0\n")
    slates = set()
    for seed in range(20):
        log = read_authors_log(path, ends=torch.Generator().manual_seed(seed))
        log.validate(items=3)
        assert log.lengths.tolist() == [3, 1, 3]
        assert not log.censored.any()
        assert log.clicks.tolist() == [[2, 0, END], [END, PAD, PAD], [1, 1, END]]
        assert log.rewards.tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
        assert log.states.tolist() == [[0, 1, 0], [0, PAD, PAD], [0, 0, 5]]
        slates |= {(0, *log.slates[0, 2].tolist()), (0, *log.slates[1, 0].tolist()), (5, *log.slates[2, 2].tolist())}
    in_state_0 = {(0, 0, 2), (0, 1, 2), (0, 2, 1)}
    assert slates == in_state_0 | {(5, *slate[1:]) for slate in in_state_0} | {(5, 1, 0)}, "state 5 shows none: any"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1;0;0;;0\n1;1;2;0,1;0\n", "row 2: click 2 is not in its slate"),
        ("1;0;0;;0\n1;1;0\n", "row 2: must have 5 fields separated by ;, got 3"),
        ("1;0;0;;0\n1;1;x;0,1;0\n", "row 2: fields must be integers, got '1;1;x;0,1;0'"),
        ("1;0;0;;0\n1;1;0;0,,1;0\n", "row 2: fields must be integers, got '1;1;0;0,,1;0'"),
        ("1;0;0;;0\n1;-1;0;0,1;0\n", "row 2: states and items must not be negative, got '1;-1;0;0,1;0'"),
        ("1;0;0;;0\n1;1;0;0,1,0;0\n", "row 2: a slate must not repeat an item, got 0,1,0"),
        ("1;0;0;;0\n2;1;0;0,1;0\n", "row 2: the first row of session 2 must have an empty slate"),
        ("1;0;0;;0\n\n1;0;0;;0\n", "row 3: only the first row of session 1 may have an empty slate"),
        ("1;0;0;;0\n", "must hold a session with at least one click"),
        ("", "must hold a session with at least one click"),
    ],
)
def test_bad_logs_are_one_line_errors(tmp_path, text, message) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text)
    with pytest.raises(LogError) as caught:
        read_authors_log(path)
    assert str(caught.value) == f"{path}: {message}"


def test_missing_and_binary_files_are_one_line_errors(tmp_path) -> None:
    with pytest.raises(LogError, match=r"none\.txt: cannot be read: No such file or directory"):
        read_authors_log(tmp_path / "none.txt")
    with pytest.raises(LogError, match=r"score\.txt: cannot be read: No such file or directory"):
        read_authors_mdp(tmp_path)
    (tmp_path / "log.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LogError, match=r"log\.txt: cannot be read: not UTF-8 text"):
        read_authors_log(tmp_path / "log.txt")
