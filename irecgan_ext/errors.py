"""Errors that the user can put right: a log, a checkpoint or an argument. Command lines print them as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Base of every error whose message alone tells the user what to change."""


class LogError(UserError):
    """A log cannot be read: `FILE: row 17: click 12 is not in its slate`."""


class CheckpointError(UserError):
    """A checkpoint cannot be written or read: `PATH: reason`."""


class Interrupted(UserError):
    """The user stopped a run whose state is saved; the message says how to go on."""


class UsageError(UserError):
    """A command-line argument breaks a rule that its type cannot express."""


@contextmanager
def checking_arguments() -> Iterator[None]:
    """Take a ValueError of the block, which holds nothing but calls with the user's arguments, for a wrong argument.

    Raises:
        UsageError: in place of any ValueError that is not a `UserError` already.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
