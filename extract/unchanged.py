"""Whether files are still those that a run was planned with: no tokens are kept under another's identity."""

from __future__ import annotations

from pathlib import Path

from mgcli.extract.skeleton_store import content_identity, skeleton_identity
from mgcli.extract.source import Interval, face_source, skeleton_source, video_identity, video_source


class WatchedVideo:
    """A video from before it is opened; asking about it again costs one look at its size and times."""

    def __init__(self, path: Path) -> None:
        """Look at it: the stamp first, so that no change between the two goes unseen."""
        self._path = path
        self._stamp = _stamp(path)
        self.identity = video_identity(path)

    def fault(self, planned: str, interval: Interval) -> str:
        """Why what was read of a clip cannot be kept; empty where the video is as it was.

        Args:
            planned: the clip's `video_source` in the clip table; empty where none was known.
            interval: of the clip.
        """
        is_as_opened = _stamp(self._path) == self._stamp
        return _fault(self._path, planned, video_source(self.identity, interval) if is_as_opened else None)


class ReadSkeleton:
    """A skeleton file that has just been read: a change until now shows, and a later one changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path, self._identity = path, skeleton_identity(path)

    def fault(self, planned: str, interval: Interval, fps: float | None, video: str | None) -> str:
        """As of a video: `planned` is the `skeleton_source`, `video` the identity of the video that gives the times."""
        return _fault(self._path, planned, skeleton_source(self._identity, interval, fps, video))


class ReadFaces:
    """A file of faces that has just been read."""

    def __init__(self, path: Path) -> None:
        self._path, self._identity = path, content_identity(path)

    def fault(self, planned: str, interval: Interval, video: str | None) -> str:
        """As of a video: `planned` is the `face_source`, `video` the identity of the video that the faces are in."""
        return _fault(self._path, planned, face_source(self._identity, interval, video))


def _fault(path: Path, planned: str, found: str | None) -> str:
    return f"{path} changed while the run went on; run the same command again" if planned not in ("", found) else ""


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None where nothing can be seen."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_size, seen.st_mtime_ns
