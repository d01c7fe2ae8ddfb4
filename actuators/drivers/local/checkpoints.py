"""Damage to real checkpoint files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import TargetNotFound
from ...fault import Target
from .platform import ANSWER_WITHIN_S, Platform

_WRITTEN_AGO_S = 0.05


class LocalCheckpoints:
    """The checkpoints of the embedded cluster; see `actuators.checkpoint.Checkpoints`.

    Args:
        platform: where they are found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def newest_checkpoint(self, target: Target) -> str:
        """Returns the path of the checkpoint that was written last."""
        self._platform.component(target)
        folder = Path(self._platform.read()["paths"]["checkpoints"])
        newest = max(_checkpoints(folder), default=None)
        if newest is None:
            raise TargetNotFound(f"{target} has no checkpoint in {folder}")
        return str(newest[1])

    def read(self, artefact: str) -> bytes | None:
        """Returns the file's bytes once nobody has written to it for a moment."""
        path = Path(artefact)
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        try:
            while time.monotonic() < deadline_s:
                before = path.stat()
                if time.time() - before.st_mtime <= _WRITTEN_AGO_S:  # or the clock has gone back: then all look new
                    time.sleep(_WRITTEN_AGO_S)
                content = path.read_bytes()
                after = path.stat()
                if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
                    return content
        except FileNotFoundError:
            return None
        raise TargetNotFound(f"{path} is being written all the time; no whole copy of it could be kept")

    def overwrite(self, artefact: str, content: bytes) -> None:
        """Replaces the file in one step and keeps its times: a damaged checkpoint must not look newer than it is."""
        path = Path(artefact)
        draft = path.with_name(f".{path.name}.draft")
        try:
            times = path.stat()
            draft.write_bytes(content)
            os.utime(draft, ns=(times.st_atime_ns, times.st_mtime_ns))
            draft.replace(path)
        except FileNotFoundError:
            return

    def set_aside(self, artefact: str, injection_id: str) -> None:
        """Renames the file, within its folder."""
        with suppress(FileNotFoundError):
            Path(artefact).replace(_aside(artefact, injection_id))

    def is_set_aside(self, artefact: str, injection_id: str) -> bool:
        """Tells whether the renamed file is there."""
        return _aside(artefact, injection_id).exists()

    def is_missing(self, artefact: str) -> bool:
        """Tells whether the file is gone from a folder that is there."""
        path = Path(artefact)
        return path.parent.is_dir() and not path.exists()

    def put_back(self, artefact: str, injection_id: str, content: bytes | None) -> None:
        """Links the renamed file, or a whole copy, into the place, which never replaces a file that is there."""
        whole = _aside(artefact, injection_id)
        try:
            if not whole.exists():
                if content is None:
                    return
                whole.write_bytes(content)
            with suppress(FileExistsError):
                os.link(whole, artefact)
            whole.unlink()
        except FileNotFoundError:
            return  # the folder is gone, and the platform with it; or somebody else was faster


def _aside(artefact: str, injection_id: str) -> Path:
    """Returns where an artefact is kept out of sight: nothing that looks for checkpoints takes it for one."""
    path = Path(artefact)
    return path.with_name(f".{path.name}.{injection_id}")


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yields checkpoint files with the time of their last write; no checksums, no files that are being written."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.name.startswith(".") and path.suffix != ".sha256":
            try:
                yield path.stat().st_mtime_ns, path
            except FileNotFoundError:
                continue
