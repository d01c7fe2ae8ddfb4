"""Bad versions in the real model registry on disk."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from ...errors import InjectionFailed, RevertFailed, TargetNotFound
from ...fault import Target
from ...registry import Version
from .platform import Platform


class LocalRegistry:
    """The model registry of the embedded cluster; see `actuators.registry.Registry`.

    Args:
        platform: where it is found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def current(self, target: Target) -> Version:
        """Returns the version that the pointer names."""
        self._platform.component(target)
        number = self._pointed_at()
        try:
            return Version(number, self._model(number).read_bytes())
        except OSError as error:
            raise TargetNotFound(f"{target} has no model version {number} that could be read: {error}") from error

    def free_number(self) -> int:
        """Returns one more than the newest version's number."""
        return max(self._numbers(), default=0) + 1

    def add(self, version: Version, checksum: str, after: int) -> None:
        """Writes the model, its manifest and then the pointer, as a publisher does."""
        model = self._model(version.number)
        try:
            _create(model, version.content)
            if model.read_bytes() != version.content:
                raise InjectionFailed(f"model version {version.number} was published by somebody else")
            manifest = {"version": version.number, "sha256": checksum}
            _replace(model.with_suffix(".json"), json.dumps(manifest))
            if self._pointed_at() not in {after, version.number}:
                raise InjectionFailed(f"version {after} is no longer the one to serve")
            _replace(self._folder() / "current", str(version.number))
        except OSError as error:
            raise InjectionFailed(f"the registry cannot be written: {error}") from error

    def withdraw(self, number: int, content_sha256: str, back_to: int) -> None:
        """Points back first, then removes the version's files."""
        if not self.holds(number, content_sha256):
            return  # superseded, or the platform is gone, or it was never there
        if self.serves(number):
            others = [other for other in self._numbers() if other != number]
            _replace(self._folder() / "current", str(back_to if back_to in others else max(others, default=back_to)))
        self._model(number).with_suffix(".json").unlink(missing_ok=True)
        self._model(number).unlink(missing_ok=True)

    def withhold(self, injection_id: str) -> None:
        """Renames the pointer, which takes it away and keeps it in one step."""
        try:
            (self._folder() / "current").rename(self._kept(injection_id))
        except FileNotFoundError:
            if not self._kept(injection_id).exists():
                raise InjectionFailed("the registry names no version that could be withheld") from None
        except OSError as error:
            raise InjectionFailed(f"the registry's pointer cannot be taken away: {error}") from error

    def hand_back(self, injection_id: str) -> None:
        """Puts the pointer back where there is none; a link never replaces one that the platform has written since."""
        with suppress(FileNotFoundError):
            with suppress(FileExistsError):
                os.link(self._kept(injection_id), self._folder() / "current")
            self._kept(injection_id).unlink()

    def is_withheld(self, injection_id: str) -> bool:
        """Tells whether the pointer is kept away, and nobody has written another since."""
        try:
            return self._kept(injection_id).exists() and not (self._folder() / "current").exists()
        except FileNotFoundError:
            return False  # the platform is gone, and its registry with it
        except (OSError, ValueError) as error:
            raise RevertFailed(f"the registry cannot be looked at: {error}") from error

    def holds(self, number: int, content_sha256: str) -> bool:
        """Tells whether the version's file has these bytes."""
        try:
            return hashlib.sha256(self._model(number).read_bytes()).hexdigest() == content_sha256
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise RevertFailed(f"model version {number} cannot be looked at: {error}") from error

    def serves(self, number: int) -> bool:
        """Tells whether the pointer names this version."""
        try:
            return self._pointed_at() == number
        except TargetNotFound:
            return False

    def _pointed_at(self) -> int:
        try:
            return int((self._folder() / "current").read_text())
        except (OSError, ValueError) as error:
            raise TargetNotFound(f"the registry names no version to serve: {error}") from error

    def _numbers(self) -> list[int]:
        return [int(path.stem.rpartition("-")[2]) for path in self._folder().glob("model-*.safetensors")]

    def _model(self, number: int) -> Path:
        return self._folder() / f"model-{number:06}.safetensors"

    def _kept(self, injection_id: str) -> Path:
        return self._folder() / f".current.{injection_id}"

    def _folder(self) -> Path:
        return Path(self._platform.read()["paths"]["registry"])


def _create(path: Path, content: bytes) -> None:
    """Creates a file that is whole from its first moment on; one that exists is left alone."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def _replace(path: Path, text: str) -> None:
    """Replaces a file in one step."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)
