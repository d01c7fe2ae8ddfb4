"""The `backburn` command.

Exit codes: 0 done; 1 weaknesses at or above `--fail-on`; 2 bad input; 3 unsafe; 4 the tool itself failed, was
interrupted where it does not wait for a safe moment, or has nobody left who reads what it prints.
Every error is one line: what, where, and what is allowed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import traceback
from typing import Any, Final, NoReturn

import sqlalchemy.exc
import typer

from actuators.errors import BackburnError, BadInput, Unsafe

from ..ownership import require_own_packages
from .findings import list_weaknesses, report, show_weakness
from .learning import benchmark, calibrate, shams, train
from .running import replay, run, serve
from .safety import doctor, halt, journal, recover, resume

app = typer.Typer(name="backburn", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=False)
for command in (run, serve, replay, report, halt, resume, recover, doctor, journal, benchmark, calibrate, train, shams):
    app.command()(command)
weaknesses = typer.Typer(help="What was found on this cluster, across runs.")
weaknesses.command("list")(list_weaknesses)
weaknesses.command("show")(show_weakness)
app.add_typer(weaknesses, name="weaknesses")

# Typer carries a click of its own; its usage error is the base of the one that it exports.
_UsageError: Any = typer.BadParameter.__mro__[1]

_CTRL_C: Final = 130
"""What Typer returns after Ctrl-C; no command does."""


def main() -> NoReturn:
    """Runs the command line; every error is one line and an exit code."""
    try:
        require_own_packages()
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
    except _UsageError as error:
        _end(2, error.format_message())
    except BadInput as error:
        _end(2, str(error))
    except Unsafe as error:
        _end(3, f"unsafe: {error}")
    except BackburnError as error:
        _end(4, str(error))
    except (OSError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError) as error:  # a full disk, a database that is locked
        _end(4, f"{type(error).__name__}: {error}")
    except (typer.Abort, KeyboardInterrupt):
        _end(4, "interrupted")
    except SystemExit:  # no command does: Typer and Rich with 1, of a pipe that nobody reads; Ray, when a signal comes
        _end(4, "ended in the middle: a signal, or a pipe that nobody reads any more")
    except Exception as error:  # left to Python, it would end with 1, which means that weaknesses were found
        with contextlib.suppress(OSError):
            traceback.print_exc()
        _end(4, f"a defect of Backburn: {type(error).__name__}: {error}")
    if code == _CTRL_C:
        _end(4, "interrupted")
    sys.exit(code)


def _end(code: int, message: str) -> NoReturn:
    with contextlib.suppress(OSError):  # nobody may read that either
        typer.echo(f"backburn: {' '.join(message.split())}", err=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again at its end, and make another exit code of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
