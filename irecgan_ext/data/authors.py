"""Readers of the files that the paper's authors' simulator writes.

* `score.txt`: M rows of C numbers, r(item | state).
* `prob.txt`: M blocks, one per state, of C rows (items) of M numbers, P(next state | item, state); a line of `=` closes
  a block.
* `log_*.txt`: rows `session;state;item;slate;purchase`. The first row of a session has an empty slate and holds its
  first state; each later row holds a slate, the item clicked in it and the state that the click led to. The step that
  ends the session has no row.

Errors count rows from 1, as text editors do.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from irecgan_ext.errors import LogError
from irecgan_ext.files import reason
from irecgan_ext.types import BOS, END, PAD, Trajectories

Lines = list[tuple[int, str]]  # non-empty lines of a file with their numbers, from 1
Step = tuple[int, list[int], int]  # state before the click, slate, click


def read_authors_mdp(directory: str | os.PathLike[str]) -> tuple[Tensor, Tensor]:
    """Read `score.txt` and `prob.txt`.

    Returns:
        rewards [M, C] float64 and transitions [M, C, M] float64 at [state, item, next state].

    Raises:
        LogError: a file is missing or malformed; `FILE: row N: rule` in one line.
    """
    score, prob = Path(directory) / "score.txt", Path(directory) / "prob.txt"
    rewards = _read_numbers(score, _read_lines(score))
    states, items = rewards.shape
    lines = _read_lines(prob)
    numbers = [(row, text) for row, text in lines if set(text) != {"="}]
    transitions = _read_numbers(prob, numbers, columns=states)
    if len(numbers) != states * items:
        raise _error(prob, None, f"must hold {states} blocks of {items} rows, got {len(numbers)} rows")
    closing = [index for index, (_, text) in enumerate(lines) if set(text) == {"="}]
    if closing not in (blocks := [(items + 1) * (b + 1) - 1 for b in range(states)], blocks[:-1]):
        raise _error(prob, None, f"a line of = must follow every {items} rows")
    sums = transitions.sum(1)
    bad = (sums - 1).abs() > 1e-6
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise _error(prob, numbers[index][0], f"probabilities must sum to 1, got {sums[index]:g}")
    return rewards, transitions.view(states, items, states)


def read_authors_log(path: str | os.PathLike[str], ends: torch.Generator | None = None) -> Trajectories:
    """Read a log as sessions that start from BOS.

    Every recorded step is a click, with reward 1. `states` holds the true state in which each slate was shown. The step on
    which a user left has no row, only its state is known: without `ends` every session is `censored`, and one that ended
    on its first step is dropped. With it every session gets that step, whose slate, not recorded, is drawn from those that
    the log shows in the same state: without any such step users who never leave would be learnt.

    Raises:
        LogError: the file is missing, malformed, or holds no step; `FILE: row N: rule` in one line.
    """
    path = Path(path)
    sessions: list[list[Step]] = []
    seen: set[int] = set()
    last_states: list[int] = []  # of the sessions
    current, state = None, 0
    for row, text in _read_lines(path):
        session, next_state, item, slate = _parse_row(path, row, text)
        if not slate:
            if session in seen:
                raise _error(path, row, f"only the first row of session {session} may have an empty slate")
            seen.add(session)
            sessions.append([])
            current = session
        elif session != current:
            raise _error(path, row, f"the first row of session {session} must have an empty slate")
        elif item not in slate:
            raise _error(path, row, f"click {item} is not in its slate")
        else:
            sessions[-1].append((state, slate, item))
        state = next_state
        last_states[len(sessions) - 1 :] = [state]
    if not any(sessions):
        raise _error(path, None, "must hold a session with at least one click")
    if ends is None:
        return _trajectories([session for session in sessions if session])
    return _trajectories(_with_ends(sessions, last_states, ends))


def _with_ends(sessions: list[list[Step]], last_states: list[int], generator: torch.Generator) -> list[list[Step]]:
    """The sessions, each with a step more on which its user leaves."""
    shown: dict[int, list[list[int]]] = {}
    for session in sessions:
        for state, slate, _ in session:
            shown.setdefault(state, []).append(slate)
    every = [slate for slates in shown.values() for slate in slates]
    ended = []
    for session, state in zip(sessions, last_states, strict=True):
        slates = shown.get(state, every)
        at = int(torch.randint(len(slates), (), generator=generator))
        ended.append([*session, (state, slates[at], END)])
    return ended


def _trajectories(sessions: list[list[Step]]) -> Trajectories:
    """Pad lists of (state, slate, click) to one batch."""
    lengths = torch.tensor([len(session) for session in sessions])
    flat = [step for session in sessions for step in session]
    horizon, width = int(lengths.max()), max(len(slate) for _, slate, _ in flat)
    mask = torch.arange(horizon) < lengths[:, None]
    batch = len(sessions)

    def pad(values: list[int]) -> Tensor:
        return torch.full((batch, horizon), PAD).masked_scatter(mask, torch.tensor(values))

    clicks = pad([click for _, _, click in flat])
    slates = torch.full((batch, horizon, width), PAD)
    slates[mask] = torch.tensor([slate + [PAD] * (width - len(slate)) for _, slate, _ in flat])
    return Trajectories(
        start=torch.full((batch,), BOS),
        slates=slates,
        clicks=clicks,
        rewards=(clicks >= 0).float(),
        lengths=lengths,
        censored=clicks.gather(1, lengths[:, None] - 1)[:, 0] != END,
        states=pad([state for state, _, _ in flat]),
    )


def _parse_row(path: Path, row: int, text: str) -> tuple[int, int, int, list[int]]:
    """Session, state, item and slate of a log row."""
    fields = text.split(";")
    if len(fields) != 5:
        raise _error(path, row, f"must have 5 fields separated by ;, got {len(fields)}")
    try:
        session, state, item, _ = (int(field) for field in (*fields[:3], fields[4]))
        slate = [int(field) for field in fields[3].split(",")] if fields[3] else []
    except ValueError:
        raise _error(path, row, f"fields must be integers, got {text!r}") from None
    if min([state, item, *slate]) < 0:
        raise _error(path, row, f"states and items must not be negative, got {text!r}")
    if len(set(slate)) != len(slate):
        raise _error(path, row, f"a slate must not repeat an item, got {fields[3]}")
    return session, state, item, slate


def _read_lines(path: Path) -> Lines:
    """Non-empty lines, stripped, with their numbers from 1."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        rule = reason(error) if isinstance(error, OSError) else "not UTF-8 text"
        raise _error(path, None, f"cannot be read: {rule}") from error
    return [(row, line.strip()) for row, line in enumerate(lines, 1) if line.strip()]


def _read_numbers(path: Path, lines: Lines, columns: int | None = None) -> Tensor:
    """[rows, columns] float64 of probabilities; `columns` defaults to the first row's."""
    table = []
    for row, text in lines:
        try:
            values = [float(field) for field in text.split()]
        except ValueError:
            raise _error(path, row, "must hold numbers separated by spaces") from None
        columns = columns or len(values)
        if len(values) != columns:
            raise _error(path, row, f"must hold {columns} numbers, got {len(values)}")
        for value in values:
            if not 0 <= value <= 1:
                raise _error(path, row, f"numbers must be in 0..1, got {value:g}")
        table.append(values)
    if not table:
        raise _error(path, None, "must hold at least one row of numbers")
    return torch.tensor(table, dtype=torch.float64)


def _error(path: Path, row: int | None, rule: str) -> LogError:
    return LogError(f"{path}: {rule}" if row is None else f"{path}: row {row}: {rule}")
