"""The guard: starts one platform and makes sure that nothing of it is ever left.

    python -m envs.staging.guard --handle FILE --root FOLDER --logs FOLDER [--keepalive-fd N]     (settings on stdin)

It ends everything when the platform ends, when it is told to (SIGTERM, SIGINT), and when the keepalive pipe closes: its
other end is held by those for whom the platform runs, so that it never outlives them. As a subreaper it is the ancestor
of every process that the platform ever starts, and it ends them by killing, for politeness takes seconds and can hang.

Exit codes: 0 ended as asked, 2 bad input, 4 the platform failed; the last line of stderr says why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..own_module import own_environment, own_module
from . import handle, leftovers
from .errors import BadInput, StagingError, one_line
from .files import tail
from .handle import Handle
from .layout import LONGEST_ROOT_BYTES, Layout
from .processes import adopt_orphans, boot_id, die_with, identify_self
from .settings import StagingSettings

KILL_DEADLINE_S = 10.0
"""How long a guard tries to end what it guards, seconds; whoever ends a guard waits for longer."""

_REAP_PAUSE_S = 0.01
_ASKED = frozenset({signal.SIGTERM, signal.SIGINT})
_AWAITED = _ASKED | {signal.SIGCHLD}
_MOST_SIGNALS = 4096


class ProcessesLeft(StagingError):
    """Some processes of the platform could not be ended."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a guard looks after.

    Attributes:
        handle: the file through which others find the platform.
        layout: where the platform's files are.
        settings: of the platform.
        keepalive_fd: read end of a pipe; when its other end closes, the platform ends. None: no such pipe.
    """

    handle: Path
    layout: Layout
    settings: StagingSettings
    keepalive_fd: int | None = None


def guard(charge: Charge, command: Sequence[str]) -> None:
    """Runs `command` as the platform, and returns when it was ended as asked and nothing is left of it.

    Raises:
        BadInput: another platform is alive, or a folder cannot be used.
        StagingError: the platform ended by itself.
        ProcessesLeft: some of it does not end; its handle and its folder stay for whoever tries that later.
    """
    leftovers.clear(charge.handle)
    _leave_terminal()
    adopt_orphans()
    with _signals() as signal_fd, _claimed(charge):
        try:
            status = _wait(_start(charge, command), signal_fd, charge.keepalive_fd)
        finally:
            _end_descendants()
        if status is not None:
            raise _failure(charge, status)


def main() -> None:
    """Reads the command line and the settings, and guards until there is nothing left to guard."""
    parser = argparse.ArgumentParser(prog="python -m envs.staging.guard", description="guard of a staging platform")
    parser.add_argument("--handle", type=Path, required=True, help="the file through which others find the platform")
    parser.add_argument("--root", type=Path, required=True, help="folder of the platform; new or empty, and short")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the logs, which outlive the platform")
    parser.add_argument("--keepalive-fd", type=int, help="a pipe; when its other end closes, the platform ends")
    given = parser.parse_args()
    handle_path, root, logs = (path.absolute() for path in (given.handle, given.root, given.logs))
    command = own_module(f"{__package__}.platform", "--handle", handle_path, "--root", root, "--logs", logs)
    try:
        settings = StagingSettings.from_json(sys.stdin.read())
        guard(Charge(handle_path, Layout(root, logs), settings, given.keepalive_fd), command)
    except StagingError as error:
        sys.stderr.write(one_line(str(error)) + "\n")
        sys.exit(error.exit_code)


def _leave_terminal() -> None:
    """Enters a session of its own, so that a Ctrl-C meant for the agent does not end its platform."""
    # A leader of a process group was put there by a shell, as a job of its own: Ctrl-C is meant for it.
    if os.getpgrp() != os.getpid():
        os.setsid()


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Turns signals into bytes of a pipe that can be waited for together with other things; yields its end."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in _AWAITED}
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _claimed(charge: Charge) -> Iterator[None]:
    """Owns handle and root for as long as the platform lives."""
    root, logs = charge.layout.root, charge.layout.logs
    if len(os.fsencode(root)) > LONGEST_ROOT_BYTES:
        raise BadInput(f"the root {root} has more than {LONGEST_ROOT_BYTES} bytes, too long for sockets in it")
    handle.create(charge.handle, _first_handle(charge))
    with _afterwards(lambda: charge.handle.unlink(missing_ok=True)):
        try:
            logs.mkdir(parents=True, exist_ok=True)
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)
            if any(root.iterdir()):
                raise BadInput(f"the root {root} is not empty; allowed is a new or empty folder")
        except OSError as error:
            raise BadInput(f"the folder {error.filename} cannot be used: {error.strerror}") from None
        with _afterwards(lambda: shutil.rmtree(root, ignore_errors=True)):
            yield


@contextlib.contextmanager
def _afterwards(clean: Callable[[], object]) -> Iterator[None]:
    """Cleans up at the end, however it comes, unless processes are left: it is by what is here that they are found."""
    try:
        yield
    except ProcessesLeft:
        raise
    except BaseException:
        clean()
        raise
    clean()


def _first_handle(charge: Charge) -> Handle:
    layout = charge.layout
    return Handle(
        cluster_id=charge.settings.cluster_id,
        environment=charge.settings.environment,
        state="starting",
        boot_id=boot_id(),
        guard=identify_self(),
        session_id=0,
        root=str(layout.root),
        control_socket=str(layout.control_socket),
        proxy_socket=str(layout.proxy_socket),
        paths={
            "checkpoints": str(layout.checkpoints),
            "registry": str(layout.registry),
            "traces": str(layout.traces),
        },
    )


def _start(charge: Charge, command: Sequence[str]) -> int:
    """Starts the platform in a session of its own; returns its pid."""
    own_pid = os.getpid()
    try:
        log = charge.layout.log("platform").open("ab")
    except OSError as error:
        raise BadInput(f"the log {error.filename} cannot be written: {error.strerror}") from None
    with log:
        platform = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=own_environment(),
            start_new_session=True,
            preexec_fn=lambda: die_with(own_pid),  # safe here: this process has one thread
        )
    assert platform.stdin is not None  # noqa: S101 (we asked for a pipe)
    with contextlib.suppress(BrokenPipeError), platform.stdin as stdin:
        stdin.write(charge.settings.to_json().encode())
    return platform.pid


def _wait(platform_pid: int, signal_fd: int, keepalive_fd: int | None) -> int | None:
    """Waits for a reason to end; returns the platform's exit status if it ended by itself, else None."""
    awaited = [signal_fd] if keepalive_fd is None else [signal_fd, keepalive_fd]
    while True:
        readable, _, _ = select.select(awaited, [], [])
        if keepalive_fd in readable and not os.read(keepalive_fd, 1):
            return None
        if signal_fd in readable and _ASKED & set(os.read(signal_fd, _MOST_SIGNALS)):
            return None
        ended = _reap()
        if platform_pid in ended:
            return ended[platform_pid]


def _reap() -> dict[int, int]:
    """Takes leave of all children that have ended, adopted ones included; returns their exit statuses by pid."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG))[0] != 0:
            ended[child[0]] = os.waitstatus_to_exitcode(child[1])
    return ended


def _end_descendants() -> None:
    """Kills every descendant, and those that they start meanwhile, until there are none."""
    deadline_s = time.monotonic() + KILL_DEADLINE_S
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _reap()
        if time.monotonic() > deadline_s:
            raise ProcessesLeft(f"these processes could not be ended: {sorted(each.pid for each in descendants)}")
        time.sleep(_REAP_PAUSE_S)


def _failure(charge: Charge, status: int) -> StagingError:
    """Returns what the platform said of its end, or what can be seen of it."""
    try:
        error = handle.read(charge.handle).error
    except (OSError, StagingError):
        error = None
    if error is None:
        log = charge.layout.log("platform")
        error = f"the platform ended with status {status}; end of {log}: {one_line(tail(log)) or 'empty'}"
    return BadInput(error) if status == BadInput.exit_code else StagingError(error)


if __name__ == "__main__":
    main()
