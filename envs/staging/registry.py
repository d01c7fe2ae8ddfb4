"""The model registry: a folder of versions, and a pointer to the current one.

    model-000012.safetensors    the tensors
    model-000012.json           {"version", "sha256"}: what the bytes have to be
    current                     the number of the version to serve

The pointer moves last, so a reader never sees a version that is not whole. Whether the bytes are checked is up to the
reader; one that is told "damaged" keeps the last good model.
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.numpy

from .errors import DamagedFile
from .files import sha256, write_atomically
from .model import Model, Tensors

_KEPT_VERSIONS = 5


class Registry:
    """Published models on disk.

    Args:
        folder: where they live; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.pointer = folder / "current"

    def publish(self, tensors: Tensors) -> int:
        """Adds a model, makes it current and returns its version; old versions are dropped."""
        version = max(self.versions(), default=0) + 1
        data = safetensors.numpy.save(dict(tensors))
        write_atomically(self._model_file(version), data)
        manifest = {"version": version, "sha256": sha256(data)}
        write_atomically(self._manifest_file(version), json.dumps(manifest).encode())
        write_atomically(self.pointer, str(version).encode())
        self._drop_all_but_newest()
        return version

    def current_version(self) -> int | None:
        """Returns the version to serve; None when nothing is published or the pointer makes no sense."""
        try:
            return int(self.pointer.read_text())
        except (OSError, ValueError):
            return None

    def pointed(self) -> tuple[int, int] | None:
        """Returns what is another one whenever somebody points at a version, even at one of a number used before."""
        try:
            seen = self.pointer.stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_ino

    def load(self, version: int, *, verified: bool = True) -> Model:
        """Reads one version.

        Args:
            version: its number.
            verified: whether its bytes must be those that were published.

        Raises:
            DamagedFile: they are not, they are gone, or they are no model.
        """
        try:
            data = self._model_file(version).read_bytes()
            if verified:
                expected = json.loads(self._manifest_file(version).read_text())["sha256"]
                if sha256(data) != expected:
                    raise DamagedFile(f"model version {version} has sha256 {sha256(data)}; published was {expected}")
            return Model(safetensors.numpy.load(data))
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise DamagedFile(f"model version {version} cannot be read: {error}") from error

    def versions(self) -> list[int]:
        """Returns the numbers of all versions that are there, oldest first."""
        return sorted(int(path.stem.rpartition("-")[2]) for path in self._folder.glob("model-*.safetensors"))

    def _drop_all_but_newest(self) -> None:
        for version in self.versions()[:-_KEPT_VERSIONS]:
            self._model_file(version).unlink(missing_ok=True)
            self._manifest_file(version).unlink(missing_ok=True)

    def _model_file(self, version: int) -> Path:
        return self._folder / f"model-{version:06}.safetensors"

    def _manifest_file(self, version: int) -> Path:
        return self._folder / f"model-{version:06}.json"
