"""Whether a video is still the file that a run was planned with: no tokens are kept under another's identity."""

from __future__ import annotations

from pathlib import Path

from mgcli.extract.source import video_identity, video_source


class WatchedVideo:
    """A video from before it is opened; asking about it again costs one look at its size and times."""

    def __init__(self, path: Path) -> None:
        """Look at it: the stamp first, so that no change between the two goes unseen."""
        self._path = path
        self._stamp = _stamp(path)
        self._identity = video_identity(path)

    def fault(self, planned: str, seconds: tuple[float, float] | None, frames: tuple[int, int] | None) -> str:
        """Why what was read of a clip cannot be kept; empty where the video is as it was.

        Args:
            planned: the clip's `video_source` in the clip table; empty where none was known.
            seconds: the clip's interval.
            frames: the same, instead.
        """
        if not planned:
            return ""
        is_as_opened = _stamp(self._path) == self._stamp
        if is_as_opened and video_source(self._identity, seconds, frames) == planned:
            return ""
        return f"{self._path} changed while the run went on; run the same command again"


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None where nothing can be seen."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_size, seen.st_mtime_ns
