"""What the command lines share: argument parsing and one-line errors."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from irecgan_ext.errors import Interrupted, UsageError, UserError
from irecgan_ext.files import reason

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


T = TypeVar("T")


def run_command(
    main: Callable[[T], None],
    options: type[T],
    *,
    prog: str,
    args: Sequence[str] | None = None,
    default: T | None = None,
) -> int:
    """Parse the command line as `options`, call `main` with them and return the exit status.

    Errors that the user can put right (`UserError`, a file that is missing or may not be used, a full disk) become one
    line on standard error. Any other exception is a defect and goes on with its trace.

    Args:
        main: does the work.
        options: a dataclass whose fields, defaults and docstrings are the flags and the help.
        prog: name shown in the help, such as `python -m irecgan_ext.simulate`.
        args: arguments; default `sys.argv[1:]`.
        default: options to start from, in place of those that `options` has for its fields.

    Returns:
        0 success (and --help), 1 the reader of standard output left, 2 user error or wrong flags, 130 interrupted.
    """
    try:
        main(parse_options(options, prog, args, default))
    except SystemExit as stop:
        return OK if stop.code is None else int(stop.code)
    except (Interrupted, KeyboardInterrupt) as error:
        _complain(str(error) or "interrupted")
        return INTERRUPTED
    except UserError as error:
        return _complain(str(error))
    except BrokenPipeError:
        # The interpreter flushes standard output once more on its way out, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.filename is None and error.errno not in _ENVIRONMENT:
            raise
        return _complain(f"{error.filename}: {reason(error)}" if error.filename is not None else reason(error))
    return OK


def flag_value(flag: str, args: Sequence[str]) -> str | None:
    """The value given for `flag` ("--flag value" or "--flag=value"), None where it is absent; for a flag that decides the
    defaults of the others."""
    for place, argument in enumerate(args):
        if argument == flag and place + 1 < len(args):
            return args[place + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def parse_options(options: type[T], prog: str, args: Sequence[str] | None, default: T | None) -> T:
    """The options of the command line; wrong flags become a UsageError of one line in place of tyro's box."""
    import tyro  # here, so that modules with a command line are cheap to import

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            if default is None:
                return tyro.cli(options, prog=prog, args=args)
            return tyro.cli(options, prog=prog, args=args, default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        # A title, then the message, in a frame of box-drawing characters or, where standard output is not UTF-8, without.
        framed = [line.strip("│ ") for line in box.getvalue().splitlines()[1:] if not line.startswith(("╭", "╰"))]
        said = [line for line in framed if line.strip("─-") and not line.startswith("For full helptext")]
        raise UsageError(f"{' '.join(said) or 'wrong arguments'} (see --help)") from None


def _complain(text: str) -> int:
    print("error: " + " ".join(text.splitlines()), file=sys.stderr)
    return USER_ERROR
