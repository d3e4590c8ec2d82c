"""How a run learns what to do next, and says how it goes: to the person at the terminal, or to a coordinator.

`alone.py` has the feed of a run of one process, `worker.py` that of a run that is one of several.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from mgcli.cache import Failure
from mgcli.extract.clip_request import ClipRequest
from mgcli.extract.plan import Stage
from mgcli.extract.run_clock import RunProfile


class Feed(Protocol):
    """Chooses the work of a run. `jobs` and `sign_of_life` may raise: whole clips are then committed, and it ends."""

    def jobs(self, stages: Sequence[Stage]) -> Iterable[list[ClipRequest]]:
        """The clips to do, file by file, from those that are left to do.

        It is asked for one when that is about to start, one after another, from any thread.
        """

    def clip_over(self, request: ClipRequest, failure: Failure | None) -> None:
        """A clip is done, or failed."""

    def sign_of_life(self, lately: RunProfile, so_far: RunProfile) -> None:
        """Something else happened; the profile of the last seconds says how the run stands."""

    def warning(self, message: str) -> None:
        """Something that a person should know; the same words are said once a run, whoever of it finds them true."""
