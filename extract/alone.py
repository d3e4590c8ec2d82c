"""A run of this process alone: all videos are its own, and it keeps the list of failed clips itself."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing

import pandas as pd

from mgcli.cache import Failure, FeatureCache, Progress, warn
from mgcli.extract.clip_request import ClipRequest
from mgcli.extract.decoder import Decoders
from mgcli.extract.device import choose_device
from mgcli.extract.engine import ClipKey
from mgcli.extract.inputs import by_file
from mgcli.extract.plan import Extraction, Stage, clip_key, plan_notes, plan_warnings, planned_modality
from mgcli.extract.report import ExtractReport, failures_to_list, modality_report
from mgcli.extract.run import run_extraction
from mgcli.extract.run_clock import RunProfile
from mgcli.extract.shard import Shard
from mgcli.extract.source import add_sources


def extract_alone(
    cache: FeatureCache,
    table: pd.DataFrame,
    extraction: Extraction,
    *,
    device: str | None = None,
    show_progress: bool = True,
    decoders: Decoders | None = None,
) -> ExtractReport:
    """Do all that the cache lacks in this process: see `extract_modalities`.

    Args:
        cache: where tokens go.
        table: the clips, checked.
        extraction: what is asked for.
        device: such as cpu or cuda:0; None takes a GPU where there is one.
        show_progress: on stderr.
        decoders: to be used instead of those that are asked for.
    """
    started = time.monotonic()
    chosen_device = choose_device(device)
    with closing(_Alone(extraction.shard, show_progress)) as feed:
        profile = run_extraction(
            cache, add_sources(table), extraction, device=chosen_device, feed=feed, decoders=decoders
        )
    return feed.report(cache, profile, time.monotonic() - started)


class _Alone:
    """The feed of such a run."""

    def __init__(self, shard: Shard | None, show_progress: bool) -> None:
        self._shard, self._show_progress = shard, show_progress
        self._stages: Sequence[Stage] = ()
        self._over: list[ClipKey] = []
        self._failures: dict[ClipKey, Failure] = {}
        self._lock = threading.Lock()  # decoders say things in threads of their own
        self._warnings: dict[str, None] = {}  # in the order in which they were said
        self._bar: Progress | None = None
        self._note = ""

    def jobs(self, stages: Sequence[Stage]) -> list[list[ClipRequest]]:
        self._stages = stages
        for note in plan_notes(stages):
            print(note, file=sys.stderr)
        for message in plan_warnings(stages):
            self.warning(message)
        requests = [request for stage in stages for request in stage.requests]
        unit = "view" if any(stage.views.count for stage in stages) else "clip"
        self._bar = Progress("extract", len(requests), unit=unit, shown=self._show_progress)
        return by_file(requests)

    def clip_over(self, request: ClipRequest, failure: Failure | None) -> None:
        self._over.append(clip_key(request))
        if failure is not None:
            self._failures[clip_key(request)] = failure
        self._step(1)

    def sign_of_life(self, lately: RunProfile, so_far: RunProfile) -> None:
        self._note = lately.note()
        self._step(0)

    def warning(self, message: str) -> None:
        with self._lock:
            if message not in self._warnings:
                self._warnings[message] = None
                warn(message)

    def close(self) -> None:
        """Keep the list of failed clips, whatever ended the run."""
        if self._bar is not None:
            self._bar.__exit__()
        for stage in self._stages:
            shard = None if self._shard is None else (self._shard.index, self._shard.count)
            stage.feature_set.write_failures(failures_to_list(self._failures, stage.modality), shard)

    def report(self, cache: FeatureCache, profile: RunProfile, seconds: float) -> ExtractReport:
        """What the run did."""
        reports = {
            stage.modality: modality_report(planned_modality(stage), self._over, self._failures, seconds)
            for stage in self._stages
        }
        return ExtractReport(
            cache=cache.path, modalities=reports, profile=profile, warnings=list(self._warnings), shard=self._shard
        )

    def _step(self, count: int) -> None:
        if self._bar is not None:
            self._bar.step(self._note, count)
