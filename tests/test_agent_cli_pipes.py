"""Output that nobody reads, and Ctrl-C: no exit code that means something else, and nothing ended that goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.build.state import journal_of
from agent.cli import main
from agent.settings import load
from tests.conftest import config_file


@pytest.fixture
def config(tmp_path) -> Path:
    """Settings of a cluster with something in its journal."""
    path = config_file(tmp_path)
    with journal_of(load(path)) as book:
        book.note("test", "something to read")
    return path


@pytest.fixture
def unread() -> Iterator[int]:
    """The end of a pipe that is written to; nobody has the other one."""
    other, ours = os.pipe()
    os.close(other)
    yield ours
    os.close(ours)


def said_to(stdout: int, *command: object, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    # Without buffers, nothing is left that Python could fail to write at its very end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    arguments = [sys.executable, *map(str, command)]
    return subprocess.run(arguments, stdout=stdout, stderr=stderr, env=environment, text=True, check=False)


def test_a_reader_that_is_gone_is_no_weakness(config, unread):
    said = said_to(unread, "-m", "agent", "journal", "--config", config)
    assert said.returncode == 4, said
    assert said.stderr.startswith("backburn: ")
    assert said.stderr.count("\n") == 1


def test_nor_is_one_that_errors_went_to_as_well(config, unread):
    assert said_to(unread, "-m", "agent", "journal", "--config", config, stderr=unread).returncode == 4


def test_nor_a_disk_without_room_for_the_output(config):
    with open("/dev/full", "w") as full:
        said = said_to(full.fileno(), "-m", "agent", "journal", "--config", config)
    assert said.returncode == 4, said
    assert "No space left on device" in said.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, EOFError])
def test_an_interrupted_command_says_so(config, monkeypatch, capsys, error):
    def interrupted(path: Path) -> None:
        raise error

    monkeypatch.setattr("agent.cli.safety.load", interrupted)
    monkeypatch.setattr("sys.argv", ["backburn", "journal", "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4
    assert capsys.readouterr().err.strip() == "backburn: interrupted"


_WORKS_ON = """
import sys
from agent.cli.options import wide_console
console = wide_console()
for _ in range(3):
    console.print("what nobody reads")
print("nor this", flush=True)
sys.exit(7)
"""


def test_a_console_whose_reader_is_gone_ends_nothing(unread):
    said = said_to(unread, "-c", _WORKS_ON)
    assert (said.returncode, said.stderr) == (7, "")
