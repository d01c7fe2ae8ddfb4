"""Where the files of one platform are, all of them under one root that dies with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LONGEST_ROOT_BYTES = 32
"""A Unix socket path may have 107 bytes, and Ray's longest adds 75 to the root."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and sockets of one platform.

    Attributes:
        root: the folder that holds everything but the logs.
        logs: where every process writes its log; outlives the platform.
    """

    root: Path
    logs: Path

    @property
    def ray(self) -> Path:
        """Ray's sessions, sockets and logs."""
        return self.root / "ray"

    @property
    def ray_token(self) -> Path:
        """The secret that admits to the Ray cluster."""
        return self.root / "ray-token"

    @property
    def control_socket(self) -> Path:
        """The operations interface of the platform."""
        return self.root / "control.sock"

    @property
    def proxy_socket(self) -> Path:
        """The control socket of the fault proxy."""
        return self.root / "proxy.sock"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the training job."""
        return self.root / "checkpoints"

    @property
    def registry(self) -> Path:
        """Published models."""
        return self.root / "registry"

    @property
    def known_features(self) -> Path:
        """What model servers have known last of features."""
        return self.root / "known-features.npy"

    @property
    def announcements(self) -> Path:
        """Who serves or works where."""
        return self.root / "announcements"

    @property
    def training_runs(self) -> Path:
        """What Ray Train keeps for itself."""
        return self.root / "training"

    @property
    def stream(self) -> Path:
        """The logs of the stream."""
        return self.root / "stream"

    @property
    def traces(self) -> Path:
        """What components have recorded of single requests."""
        return self.root / "traces"

    def log(self, name: str) -> Path:
        """Returns the log file of a process."""
        return self.logs / f"{name}.log"

    def make_folders(self) -> None:
        """Makes every folder under the root."""
        folders = (self.ray, self.checkpoints, self.registry, self.announcements, self.training_runs, self.traces)
        for folder in folders:
            folder.mkdir(exist_ok=True)
