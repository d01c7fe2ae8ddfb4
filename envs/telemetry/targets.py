"""Telling a Prometheus whom to scrape, in a file that it watches (`file_sd_configs`).

Replicas come and go, and their ports with them. Where Prometheus discovers services by itself nobody needs this; the
embedded cluster has nothing of that kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from .poller import Source
from .scrape import Exporter
from .snapshot import Snapshot


class TargetsFile:
    """A file of scrape targets.

    Args:
        path: of the file.
        labels: what all samples will bear, besides the `job` that names their owner.
    """

    def __init__(self, path: Path, labels: Mapping[str, str]) -> None:
        self._path = path
        self._labels = labels
        self._written: list[object] | None = None

    def write(self, exporters: Iterable[Exporter]) -> None:
        """Replaces the targets, atomically and only where they have changed.

        Raises:
            OSError: the file cannot be written.
        """
        targets = [self._target(exporter) for exporter in exporters if exporter.url]
        if targets == self._written:
            return
        draft = self._path.with_name(f".{self._path.name}.draft")
        draft.write_text(json.dumps(targets, indent=1), encoding="utf-8")
        draft.replace(self._path)
        self._written = targets

    def _target(self, exporter: Exporter) -> object:
        url = urlsplit(exporter.url)
        how = {"__scheme__": url.scheme, "__metrics_path__": url.path or "/"}
        return {"targets": [url.netloc], "labels": {**self._labels, "job": exporter.owner, **how}}


class Announced:
    """A source that asks a Prometheus, which is told before every round whom to scrape.

    Args:
        source: asks the Prometheus.
        exporters: returns the exporters of the moment.
        targets: where the Prometheus reads of them.
    """

    def __init__(self, source: Source, exporters: Callable[[], list[Exporter]], targets: TargetsFile) -> None:
        self._source = source
        self._exporters = exporters
        self._targets = targets

    def round(self) -> Snapshot:
        """Tells about the exporters, then asks."""
        # What cannot be told is not scraped, and so it is unknown; there is nothing else to do about it here.
        with suppress(OSError):
            self._targets.write(self._exporters())
        return self._source.round()

    def close(self) -> None:
        """Takes the targets back, for their ports may be somebody else's soon."""
        with suppress(OSError):
            self._targets.write([])
        self._source.close()
