"""What is asked of a clip, and what comes of it on the way to a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgcli.extract.backbone import Backbone, Prepared
from mgcli.extract.shrink import FramedShrink, Look
from mgcli.extract.source import Interval, interval_of
from mgcli.extract.views import ClipView


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """One clip, or one augmented view of it, for one backbone."""

    number: int  # place among all requests of the run
    clip_id: str
    source: str  # 16 hex digits; empty where a file is not there
    modality: str
    backbone: Backbone
    video: Path | None
    skeleton: Path | None
    skeleton_fps: float | None
    face: Path | None  # None: faces are detected
    seconds: tuple[float, float] | None  # [start, end); None with `frames` None: the whole video
    frames: tuple[int, int] | None  # [start, end)
    video_source: str = ""  # of the video and interval that the run was planned with; empty where none was there
    file_source: str = ""  # the same of what the backbone reads: of the video, the skeleton or the faces
    view: ClipView | None = None  # None: the plain view

    @property
    def view_number(self) -> int:
        """0 the plain view; 1 and up augmented ones."""
        return 0 if self.view is None else self.view.number

    @property
    def interval(self) -> Interval:
        """As sources are made from it."""
        return interval_of(self.seconds, self.frames)

    @property
    def look(self) -> Look:
        """What a picture is needed as."""
        shrink = self.backbone.shrink
        return shrink if shrink is None or self.view is None else FramedShrink(self.view.framing, shrink)


@dataclass(frozen=True, eq=False)
class InputReady:
    """One input of a clip; a clip is whole when all `of` have come."""

    request: ClipRequest
    window: int
    of: int
    prepared: Prepared


@dataclass(frozen=True, eq=False)
class ClipFailed:
    """A clip that will give no tokens."""

    request: ClipRequest
    stage: str  # open, skeleton, face, interval, decode, prepare
    reason: str


@dataclass(frozen=True, eq=False)
class ClipWarning:
    """A clip that goes on, with something a person should know."""

    request: ClipRequest
    message: str


ClipEvent = InputReady | ClipFailed | ClipWarning
