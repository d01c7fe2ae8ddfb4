"""One partition of the stream: lines in order, kept in files, so that it can be replayed after a death.

A log is a folder of segments, each named by the offset of its first line. Only whole lines count: what a death has cut
off in the middle of a line was never acknowledged to anybody, and is dropped by the next one who opens the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import FileIO
from pathlib import Path

SEGMENT_LINES = 4096
"""Lines of a segment; the newest two are kept, which is about two minutes of the embedded platform."""


class EventLog:
    """Appends lines, and reads them again from any offset that is still kept.

    Args:
        folder: of this partition alone.
        segment_lines: how many lines a segment has.
    """

    def __init__(self, folder: Path, segment_lines: int = SEGMENT_LINES) -> None:
        self._folder = folder
        self._segment_lines = segment_lines
        folder.mkdir(parents=True, exist_ok=True)
        segments = sorted(folder.glob("*.log"))
        self._lines: list[bytes] = [line for segment in segments for line in _whole_lines(segment)]
        self.first = int(segments[0].stem) if segments else 0
        self._segment_first = int(segments[-1].stem) if segments else 0
        self._file = self._open()

    @property
    def next(self) -> int:
        """The offset that the next line will get."""
        return self.first + len(self._lines)

    def append(self, lines: Sequence[bytes]) -> None:
        """Appends whole lines, each with its newline."""
        self._file.write(b"".join(lines))
        self._lines += lines
        if self.next - self._segment_first >= self._segment_lines:
            self._roll()

    def read(self, offset: int, most: int) -> tuple[int, list[bytes]]:
        """Returns the offset of the first line found at or after `offset`, and up to `most` lines from there.

        Args:
            offset: where to begin; a negative one counts from the end. What is gone or not there yet is passed over.
            most: lines.
        """
        wanted = self.next + offset if offset < 0 else offset
        begins = min(max(wanted, self.first), self.next)
        at = begins - self.first
        return begins, self._lines[at : at + most]

    def close(self) -> None:
        """Closes the segment."""
        self._file.close()

    def _roll(self) -> None:
        """Begins a new segment, and forgets the one before the last."""
        self._file.close()
        before, self._segment_first = self._segment_first, self.next
        self._file = self._open()
        for segment in self._folder.glob("*.log"):
            if int(segment.stem) < before:
                segment.unlink()
        self._lines, self.first = self._lines[before - self.first :], before

    def _open(self) -> FileIO:
        # Not buffered: no line may wait in a memory that dies with the process.
        return (self._folder / f"{self._segment_first:012}.log").open("ab", buffering=0)


def lines_of(text: bytes) -> list[bytes]:
    r"""Returns whole lines, each with its newline; no other character ends a line.

    >>> lines_of(b"a\rb\n\nc\n")
    [b'a\rb\n', b'\n', b'c\n']
    """
    return [line + b"\n" for line in text.split(b"\n")[:-1]]


def _whole_lines(segment: Path) -> list[bytes]:
    """Returns a segment's whole lines, and cuts off what is left of a line that was never finished."""
    content = segment.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with segment.open("r+b") as file:
            file.truncate(len(whole))
    return lines_of(whole)
