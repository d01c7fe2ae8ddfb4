"""The guard and the sweeper, on real process trees that are no platform but behave as badly as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from envs.staging import guard, leftovers
from envs.staging import handle as handles
from envs.staging.errors import PlatformAlive, StagingError
from envs.staging.handle import Handle
from envs.staging.layout import Layout
from envs.staging.processes import ProcessId, boot_id, identify
from envs.staging.settings import StagingSettings

from .waiting import wait_until

SOURCES = Path(__file__).parents[1]

GUARD = """
import sys
from pathlib import Path
from envs.staging.errors import StagingError
from envs.staging.guard import Charge, guard
from envs.staging.layout import Layout
from envs.staging.settings import StagingSettings

handle, root, logs, keepalive_fd, *command = sys.argv[1:]
try:
    guard(Charge(Path(handle), Layout(Path(root), Path(logs)), StagingSettings(), int(keepalive_fd)), command)
except StagingError as error:
    sys.stderr.write(str(error))
    sys.exit(error.exit_code)
"""

TREE = """
import os, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
from envs.staging import handle

path, root = Path(sys.argv[1]), sys.argv[2]
settings = sys.stdin.read()
sleeper = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
deaf = [sys.executable, "-I", "-S", "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", root]
orphan = [sys.executable, "-I", "-S", "-c",
          f"import subprocess; print(subprocess.Popen({sleeper}).pid, flush=True)"]
pids = [subprocess.Popen(sleeper, process_group=0).pid, subprocess.Popen(deaf, process_group=0).pid]
with subprocess.Popen(orphan, stdout=subprocess.PIPE) as mother:
    pids.append(int(mother.stdout.readline()))
os.kill(pids[0], signal.SIGSTOP)
handle.write(path, replace(handle.read(path), session_id=os.getsid(0)))
Path(root, "pids").write_text(" ".join(map(str, [os.getpid(), *pids])))
"""
STAYS = TREE + "time.sleep(600)"
FAILS = TREE + "handle.write(path, replace(handle.read(path), state='failed', error='no luck')); sys.exit(4)"
RESTARTS = (
    TREE
    + """
while True:
    with subprocess.Popen(sleeper, process_group=0) as node:
        Path(root, "node").write_text(str(node.pid))
"""
)
CRASHES = TREE + "sys.stderr.write('first\\nlast words\\n'); os.kill(os.getpid(), signal.SIGKILL)"


@dataclass
class Guarded:
    """A guard and the tree that it guards."""

    process: subprocess.Popen[str]
    handle: Path
    root: Path
    keepalive: int

    def tree(self) -> list[ProcessId]:
        """Returns the processes of the tree, once all of them run."""
        pids = wait_until(lambda: (self.root / "pids").exists() and (self.root / "pids").read_text())
        return [found for pid in pids.split() if (found := identify(int(pid))) is not None]

    def ended(self) -> int:
        """Waits for the guard; returns its exit status."""
        return self.process.wait(timeout=10)

    def left_nothing(self) -> bool:
        return not self.root.exists() and not self.handle.exists()


@pytest.fixture
def short_root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bb-", dir="/tmp"))
    yield folder / "r"
    subprocess.run(["rm", "-rf", folder], check=True)  # noqa: S607


@pytest.fixture
def ends(short_root: Path) -> Iterator[ExitStack]:
    """Ends processes, before the folder that knows their pids is removed."""
    with ExitStack() as stack:
        yield stack


def start(ends: ExitStack, folder: Path, root: Path, script: str) -> Guarded:
    """Starts a guard in our own session, as a careless caller would."""
    path = folder / "state" / "platform.json"
    reader, writer = os.pipe()
    tree = [sys.executable, "-c", script, str(path), str(root)]
    process = subprocess.Popen(
        [sys.executable, "-c", GUARD, str(path), str(root), str(folder / "logs"), str(reader), *tree],
        stderr=subprocess.PIPE,
        pass_fds=[reader],
        cwd=SOURCES,
        text=True,
    )
    os.close(reader)
    guarded = Guarded(process, path, root, writer)
    ends.callback(process.stderr.close)
    ends.callback(process.wait)
    ends.callback(process.kill)
    ends.callback(_kill_tree, root)
    return guarded


def _kill_tree(root: Path) -> None:
    pids = (root / "pids").read_text().split() if (root / "pids").exists() else []
    for pid in pids:
        found = identify(int(pid))
        if found is not None:
            found.kill()


@pytest.mark.parametrize("how", ["terminate", "interrupt", "keepalive"])
def test_a_guard_that_is_asked_ends_every_process_and_removes_every_file(how, ends, tmp_path, short_root) -> None:
    guarded = start(ends, tmp_path, short_root, STAYS)
    tree = guarded.tree()
    assert len(tree) == 4
    if how == "keepalive":
        os.close(guarded.keepalive)
    else:
        guarded.process.send_signal(signal.SIGTERM if how == "terminate" else signal.SIGINT)
    assert guarded.ended() == 0
    assert not any(process.is_alive() for process in tree)
    assert guarded.left_nothing()
    if how != "keepalive":
        os.close(guarded.keepalive)


@pytest.mark.parametrize("how", ["asked", "killed"])
def test_what_is_being_restarted_ends_with_the_rest(how, ends, tmp_path, short_root) -> None:
    """A platform replaces whatever dies, until it is dead itself: nothing that it has just started may be missed."""
    guarded = start(ends, tmp_path, short_root, RESTARTS)
    platform, *_ = guarded.tree()
    lost = wait_until(lambda: (short_root / "node").exists() and (short_root / "node").read_text())
    os.kill(int(lost), signal.SIGKILL)
    if how == "asked":
        guarded.process.send_signal(signal.SIGTERM)
        assert guarded.ended() == 0
    else:
        guarded.process.kill()
        guarded.process.wait()
        wait_until(lambda: not platform.is_alive())
        assert leftovers.clear(guarded.handle) != []
    assert [pid for pid in psutil.pids() if _session(pid) == platform.pid] == []
    assert guarded.left_nothing()
    os.close(guarded.keepalive)


def _session(pid: int) -> int | None:
    """Returns the session of a living process, None for the dead and for zombies."""
    try:
        return os.getsid(pid) if identify(pid) is not None else None
    except ProcessLookupError:
        return None


def test_a_guard_and_its_platform_are_out_of_reach_of_our_ctrl_c(ends, tmp_path, short_root) -> None:
    guarded = start(ends, tmp_path, short_root, STAYS)
    platform, *_ = guarded.tree()
    sessions = {os.getsid(pid) for pid in (os.getpid(), guarded.process.pid, platform.pid)}
    assert len(sessions) == 3
    os.close(guarded.keepalive)
    guarded.ended()


def test_a_platform_that_fails_takes_everything_along_and_its_reason_is_told(ends, tmp_path, short_root) -> None:
    guarded = start(ends, tmp_path, short_root, FAILS)
    assert guarded.ended() == 4
    assert guarded.process.stderr.read() == "no luck"
    assert guarded.left_nothing()
    os.close(guarded.keepalive)


def test_of_a_platform_that_crashes_the_end_of_its_log_is_told(ends, tmp_path, short_root) -> None:
    guarded = start(ends, tmp_path, short_root, CRASHES)
    assert guarded.ended() == 4
    error = guarded.process.stderr.read()
    assert "ended with status -9" in error
    assert error.endswith("first | last words")
    assert guarded.left_nothing()
    os.close(guarded.keepalive)


@pytest.mark.parametrize(("error", "stays"), [(guard.ProcessesLeft("4711"), True), (StagingError("no luck"), False)])
def test_what_could_not_be_ended_can_still_be_found(tmp_path, short_root, error, stays):
    """Without its handle the next start would begin beside it, and a watchdog would look for nothing."""
    handle, root = tmp_path / "platform.json", short_root
    charge = guard.Charge(handle, Layout(root, tmp_path / "logs"), StagingSettings())
    with pytest.raises(type(error), match=str(error)), guard._claimed(charge):
        raise error
    assert (handle.exists(), root.exists()) == (stays, stays)


def test_a_folder_in_which_something_is_is_never_taken_for_a_root(ends, tmp_path, short_root) -> None:
    short_root.mkdir()
    (short_root / "precious").touch()
    guarded = start(ends, tmp_path, short_root, STAYS)
    assert guarded.ended() == 2
    assert "not empty" in guarded.process.stderr.read()
    assert (short_root / "precious").exists()
    assert not guarded.handle.exists()
    os.close(guarded.keepalive)


def test_a_running_platform_is_never_swept_away(ends, tmp_path, short_root) -> None:
    guarded = start(ends, tmp_path, short_root, STAYS)
    tree = guarded.tree()
    with pytest.raises(PlatformAlive, match=f"platform of another run is alive, guard pid {guarded.process.pid}"):
        leftovers.clear(guarded.handle)
    rival = start(ends, tmp_path, short_root.with_name("s"), STAYS)
    assert rival.ended() == 2
    assert f"guard pid {guarded.process.pid}" in rival.process.stderr.read()
    assert all(process.is_alive() for process in tree)
    os.close(rival.keepalive)
    os.close(guarded.keepalive)
    guarded.ended()


@pytest.fixture
def heeds_hangups() -> Iterator[None]:
    """Lets what a test starts heed SIGHUP, which under `nohup` all of it would have inherited to ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heeds_hangups")
def test_what_a_killed_guard_leaves_is_found_and_ended(ends, tmp_path, short_root) -> None:
    guarded = start(ends, tmp_path, short_root, STAYS)
    platform, stopped, *others = guarded.tree()
    guarded.process.kill()
    guarded.process.wait()
    # The kernel ends the platform with its parent, and hangs up on a stopped process that nobody is left to continue.
    wait_until(lambda: not platform.is_alive() and not stopped.is_alive())
    assert all(process.is_alive() for process in others)
    assert leftovers.clear(guarded.handle) == sorted(process.pid for process in others)
    assert not any(process.is_alive() for process in others)
    assert guarded.left_nothing()
    assert leftovers.clear(guarded.handle) == []
    os.close(guarded.keepalive)


def test_the_next_guard_sweeps_before_it_starts(ends, tmp_path, short_root) -> None:
    first = start(ends, tmp_path, short_root, STAYS)
    tree = first.tree()
    first.process.kill()
    first.process.wait()
    second = start(ends, tmp_path, short_root.with_name("s"), STAYS)
    second.tree()
    assert not any(process.is_alive() for process in tree)
    for guarded in (first, second):
        os.close(guarded.keepalive)
    assert second.ended() == 0


@pytest.fixture
def stranger(ends: ExitStack) -> ProcessId:
    """A process in a session of its own that has nothing to do with any platform."""
    command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen(command, start_new_session=True)
    ends.callback(process.wait)
    ends.callback(process.kill)
    return identify(process.pid)


def abandoned(root: Path, session: ProcessId, guard: ProcessId) -> Handle:
    return Handle(
        cluster_id="local",
        environment="staging",
        state="ready",
        boot_id=boot_id(),
        guard=guard,
        session_id=session.pid,
        root=str(root),
        control_socket="",
        proxy_socket="",
        paths={},
    )


def dead(process: ProcessId) -> ProcessId:
    """Returns an identity that nobody has any more, older than `process`."""
    return replace(process, start_ticks=process.start_ticks - 1)


def test_strangers_in_a_recycled_session_are_not_touched(stranger: ProcessId, tmp_path: Path) -> None:
    path, root = tmp_path / "platform.json", tmp_path / "root"
    root.mkdir()
    handles.write(path, abandoned(root, stranger, dead(stranger)))
    assert leftovers.clear(path) == []
    assert stranger.is_alive()
    assert not root.exists()
    assert not path.exists()


def test_a_root_that_only_looks_alike_proves_nothing(ends: ExitStack, tmp_path: Path) -> None:
    root, neighbour = tmp_path / "root", tmp_path / "root-2"
    neighbour.mkdir()
    code = "import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], start_new_session=True, cwd=neighbour)
    ends.callback(process.wait)
    ends.callback(process.kill)
    found = identify(process.pid)
    path = tmp_path / "platform.json"
    handles.write(path, abandoned(root, found, dead(found)))
    assert leftovers.clear(path) == []
    assert found.is_alive()


def test_somebody_reading_our_files_from_another_session_is_not_touched(ends: ExitStack, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    reader = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], cwd=root, stdin=subprocess.PIPE)
    ends.enter_context(reader)
    ends.callback(reader.kill)
    found = identify(reader.pid)
    path = tmp_path / "platform.json"
    no_session = ProcessId(max(psutil.pids()) + 10_000, 0)
    handles.write(path, abandoned(root, no_session, dead(found)))
    assert leftovers.clear(path) == []
    assert found.is_alive()


def test_after_a_reboot_only_files_are_left(stranger: ProcessId, tmp_path: Path) -> None:
    path, root = tmp_path / "platform.json", tmp_path / "root"
    root.mkdir()
    # Even an identity that fits is another process when the boot is another one.
    handles.write(path, replace(abandoned(root, stranger, stranger), boot_id="an earlier boot"))
    assert leftovers.clear(path) == []
    assert stranger.is_alive()
    assert not root.exists()
    assert not path.exists()


def test_a_file_that_is_no_handle_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "platform.json"
    path.write_text("my notes")
    with pytest.raises(StagingError, match="not a platform handle"):
        leftovers.clear(path)
    assert path.read_text() == "my notes"
