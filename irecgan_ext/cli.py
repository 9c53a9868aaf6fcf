"""What the command lines share: argument parsing and one-line errors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from irecgan_ext.errors import UsageError, UserError
from irecgan_ext.files import reason

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


T = TypeVar("T")


def run_command(main: Callable[[T], None], options: type[T], *, prog: str, args: Sequence[str] | None = None) -> int:
    """Parse the command line as `options`, call `main` with them and return the exit status.

    Errors that the user can put right (`UserError`, a file that is missing or may not be used, a full disk) become one
    line on standard error. Any other exception is a defect and goes on with its trace.

    Args:
        main: does the work.
        options: a dataclass whose fields, defaults and docstrings are the flags and the help.
        prog: name shown in the help, such as `python -m irecgan_ext.simulate`.
        args: arguments; default `sys.argv[1:]`.

    Returns:
        0 success (and --help), 1 the reader of standard output left, 2 user error or wrong flags, 130 interrupted.
    """
    import tyro  # here, so that modules with a command line are cheap to import

    try:
        main(tyro.cli(options, prog=prog, args=args))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else USER_ERROR
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more on its way out, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.filename is None and error.errno not in _ENVIRONMENT:
            raise
        return _complain(f"{error.filename}: {reason(error)}" if error.filename is not None else reason(error))
    return OK


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


def _complain(text: str) -> int:
    print("error: " + " ".join(text.splitlines()), file=sys.stderr)
    return USER_ERROR
