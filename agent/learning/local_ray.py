"""A Ray of our own on this host, for as long as a training or a comparison lasts; nothing of it stays.

What a killed one has left behind is ended at the next start: its processes have the folder in their command line
or among their files, and its name is unique.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from actuators.errors import BackburnError, BadInput
from envs.staging.processes import adopt_orphans

OBJECT_STORE_BYTES = 80 * 2**20
"""Just above the least that Ray allows; nothing large is passed around."""

_MARK = "ray-folder"
_PREFIX = "bb-"
_END_WITHIN_S = 10.0


@contextmanager
def local_ray(folder: Path, cpus: int, gpus: int) -> Iterator[None]:
    """Starts Ray and ends all of it; once in a process, for Ray keeps its first secret and folder.

    Args:
        folder: of what is done; remembers where Ray's files are.
        cpus: how many it may think it has.
        gpus: likewise.

    Raises:
        BackburnError: it did not start, or did not end.
    """
    with own_ground(folder) as root, _undisturbed():
        import ray  # reads its environment as it is imported

        try:
            ray.init(
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(root / "ray"),
                _node_ip_address="127.0.0.1",
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise BackburnError(f"Ray did not start: {str(error).splitlines()[0]}") from error
        try:
            yield
        finally:
            with suppress(Exception):
                ray.shutdown()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Lets what this thread starts finish its slice of time, whoever of them wakes up (SCHED_BATCH; Linux only).

    Each of Ray's helpers wakes up a hundred times a second, to find that there is nothing to do. On a host whose cores
    are all at work each time would stop a worker at once, and leave it a cold cache.
    """
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if before[0] == os.SCHED_OTHER:  # whoever was told to run only when nobody else does, goes on so
        with suppress(OSError):  # it may be fixed
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, *before)


@contextmanager
def own_ground(folder: Path) -> Iterator[Path]:
    """Prepares this process to start Ray, and ends whatever it has started.

    Args:
        folder: of what is done; remembers where Ray's files are.

    Yields:
        A folder for Ray's files, which is removed in the end.

    Raises:
        BackburnError: something could not be ended.
    """
    end_leftovers(folder)
    # Unix sockets have short names, and run folders may not.
    root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    (folder / _MARK).write_text(f"{root}\n", encoding="utf-8")
    token = root / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    # A shell may point Ray at another cluster, even a productive one. Nothing of that applies here.
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ.update(
        {
            "RAY_TMPDIR": str(root),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: keeps it to loopback
            "RAY_enable_metrics_collection": "0",
            "RAY_TRAIN_METRICS_ENABLED": "0",
            "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # Ray brings to the driver what workers print, and it would be twice
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
    )
    adopt_orphans()
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    try:
        yield root
    finally:
        _end(lambda: [p for p in psutil.Process().children(recursive=True) if p.pid not in before])
        shutil.rmtree(root, ignore_errors=True)
        (folder / _MARK).unlink(missing_ok=True)


def end_leftovers(folder: Path) -> list[int]:
    """Ends what a killed process has left running; returns the pids.

    Args:
        folder: as for `own_ground`.

    Raises:
        BackburnError: something could not be ended.
        BadInput: the folder names files that cannot be Ray's; nothing was ended.
    """
    try:
        root = (folder / _MARK).read_bytes().decode("utf-8", "replace").strip()
    except OSError:
        return []
    if not root:
        return []
    if not _is_own(Path(root)):
        raise BadInput(f"{folder / _MARK} names {root}; allowed is a folder of ours, whose name begins with {_PREFIX}")
    ended = _end(lambda: [process for process in psutil.process_iter() if _has_files_in(process, root)])
    shutil.rmtree(root, ignore_errors=True)
    (folder / _MARK).unlink(missing_ok=True)
    return ended


def _is_own(root: Path) -> bool:
    """Tells whether `own_ground` can have made a folder: any other is not ours to remove, nor is what uses it."""
    if not root.name.startswith(_PREFIX) or root.is_symlink():
        return False
    return not root.exists() or (root.is_dir() and root.stat().st_uid == os.getuid())


def _has_files_in(process: psutil.Process, root: str) -> bool:
    try:
        names = [process.cwd(), *process.cmdline(), *(file.path for file in process.open_files())]
    except psutil.Error:
        return False
    return process.pid != os.getpid() and any(f"{root}/" in f"{name}/" for name in names)


def _end(found: Callable[[], list[psutil.Process]]) -> list[int]:
    """Kills processes, and those that they start meanwhile, until there are none; Ray's agents ignore SIGTERM."""
    ended: set[int] = set()
    until_s = time.monotonic() + _END_WITHIN_S
    while processes := found():
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
            ended.add(process.pid)
        psutil.wait_procs(processes, timeout=0.2)
        if time.monotonic() > until_s:
            raise BackburnError(f"these processes could not be ended: {sorted(each.pid for each in processes)}")
    return sorted(ended)
