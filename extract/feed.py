"""How a run that is one of several learns what to do next, and says how it goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mgcli.cache import Failure, FeatureSet
from mgcli.extract.backbone import Backbone
from mgcli.extract.inputs import ClipRequest


@dataclass(frozen=True, eq=False)
class Stage:
    """One modality of a run: what it is computed with, where to, and what is left to do."""

    modality: str
    backbone: Backbone
    feature_set: FeatureSet
    requests: list[ClipRequest]
    num_skipped: int


class Feed(Protocol):
    """Chooses the work of a run. Any of these may raise: the run then commits what is whole, and ends."""

    def jobs(self, stages: Sequence[Stage]) -> Iterable[list[ClipRequest]]:
        """The clips to do, file by file, from those that are left to do; asked for one when it is about to start."""

    def clip_over(self, request: ClipRequest, failure: Failure | None) -> None:
        """A clip is done, or failed."""

    def sign_of_life(self) -> None:
        """Something else happened: an input is ready."""

    def warning(self, message: str) -> None:
        """Something that a person should know."""
