"""The platform's main process: `python -m envs.staging.platform`, started by the guard and ended with it.

It gets the settings as one JSON object on stdin, and finds the handle as the guard wrote it. Whatever keeps it from
going on is said in the handle, in its log, and by its exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import handle, ray_environment
from .errors import StagingError, StartFailed, one_line
from .layout import Layout
from .ports import choose_ports
from .settings import StagingSettings

if TYPE_CHECKING:
    from .control_loop import ControlLoop

_LONGEST_ERROR = 2000

_log = logging.getLogger(__name__)


def main() -> None:
    """Runs a platform until it is killed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m envs.staging.platform", description="the staging platform")
    parser.add_argument("--handle", type=Path, required=True, help="the file through which others find it")
    parser.add_argument("--root", type=Path, required=True, help="folder of everything but the logs")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the logs")
    arguments = parser.parse_args()
    try:
        settings = StagingSettings.from_json(sys.stdin.read())
        loop = _prepare(settings, Layout(arguments.root, arguments.logs), arguments.handle)
        _run(loop, settings.startup_deadline_s, arguments.handle)
    except Exception as error:
        _log.exception("the platform cannot go on")
        _end(arguments.handle, error)


def _prepare(settings: StagingSettings, layout: Layout, handle_path: Path) -> ControlLoop:
    os.umask(0o077)
    first = replace(handle.read(handle_path), session_id=os.getsid(0))
    handle.write(handle_path, first)
    ports = choose_ports(settings.gateway_port)
    layout.make_folders()
    # Every child starts here, so that even one that lost its name can be told from strangers by its folder.
    os.chdir(layout.root)
    ray_environment.write_token(layout)
    hang_timeout_s = settings.hang_timeout_s if settings.switches.training_hang_timeout == "hardened" else None
    ray_environment.prepare(os.environ, layout, hang_timeout_s)
    # Not before: Ray reads its environment as it is imported.
    from .control_loop import ControlLoop

    return ControlLoop(settings, layout, ports, handle_path, first)


def _run(loop: ControlLoop, deadline_s: float, handle_path: Path) -> None:
    def give_up() -> None:
        missing = loop.what_is_missing()
        _end(handle_path, StartFailed(f"the platform is not up after {deadline_s:g} s: {missing}"))

    # A timer of its own, for the main thread may hang in a call that knows no deadline.
    deadline = threading.Timer(deadline_s, give_up)
    deadline.daemon = True
    deadline.start()
    loop.start()
    deadline.cancel()
    loop.run()


def _end(handle_path: Path, error: Exception) -> NoReturn:
    """Says why and ends the process at once; the guard ends all others."""
    known = isinstance(error, StagingError)
    text = one_line(str(error) if known else f"{type(error).__name__}: {error}")[:_LONGEST_ERROR]
    with contextlib.suppress(OSError, StagingError):  # without a handle, the log has to do
        handle.write(handle_path, replace(handle.read(handle_path), state="failed", error=text))
    logging.shutdown()
    os._exit(error.exit_code if isinstance(error, StagingError) else StagingError.exit_code)


if __name__ == "__main__":
    main()
