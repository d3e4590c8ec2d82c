"""One run, many workers: starts them, hands out the videos, replaces workers that are lost, and reports for all.

`handout.py` says which video goes to whom.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pandas as pd

from mgcli.cache import Failure, FeatureCache, MgcliError, Progress, warn, writing
from mgcli.extract.engine import (
    Asking,
    ClipsOver,
    Ended,
    Engine,
    EngineError,
    FileWork,
    Lost,
    Message,
    Planned,
    Warned,
    WorkerTask,
)
from mgcli.extract.handout import Handout
from mgcli.extract.report import ExtractReport, failures_to_list, modality_report
from mgcli.extract.run_clock import RunProfile, all_together
from mgcli.extract.source import add_sources

if TYPE_CHECKING:
    from mgcli.extract.plan import Extraction

_POLL_S = 0.5
_STOP_S = 60.0  # for workers to commit what is whole, after Ctrl-C or an error


def coordinate(
    cache: FeatureCache, table: pd.DataFrame, extraction: Extraction, engine: Engine, *, show_progress: bool = True
) -> ExtractReport:
    """Run the workers of an engine until all is done: see `extract_modalities`.

    Args:
        cache: where tokens go; all workers must see the same one.
        table: the clips, checked.
        extraction: what is asked for.
        engine: where the workers are; closed at the end.
        show_progress: of the whole run, on stderr.

    Raises:
        MgcliError: what a worker says concerns the whole run; or no worker is left, and there is work.
        Exception: a worker's bug, with its traceback as a note.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        stack.callback(engine.close)
        marker = stack.enter_context(_marked(cache))
        extraction = replace(extraction, num_processes=len(engine.slots))
        task = WorkerTask("", str(cache.path), marker, add_sources(table), extraction, None)
        run = _Run(cache, task, engine, show_progress)
        stack.callback(run.close)
        try:
            run.work()
        except BaseException:
            run.stop()
            raise
        return run.report(time.monotonic() - started)


@contextmanager
def _marked(cache: FeatureCache) -> Iterator[str]:
    """A file in the cache while the run lasts; no reader looks at it, and `cache gc` removes one that is left over."""
    path = cache.path / f".tmp-run-{secrets.token_hex(4)}"
    with writing(path):
        path.write_text("a run of mgcli extract with several workers\n")
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


@dataclass
class _Slot:
    """A place for one worker at a time."""

    running: bool = False
    usable: bool = True
    last: bool = False  # the worker tries a suspect, and gets nothing else
    in_hand: list[FileWork] = field(default_factory=list)  # all that the worker was given
    num_over: int = 0  # of their clips, as it says
    lately: RunProfile | None = None  # what the worker did in the last seconds
    so_far: RunProfile | None = None  # what it did since it began


class _Run:
    """The state of a run: which worker has what, and what is left."""

    def __init__(self, cache: FeatureCache, task: WorkerTask, engine: Engine, show_progress: bool) -> None:
        self._cache, self._task, self._engine, self._show_progress = cache, task, engine, show_progress
        self._slots = [_Slot() for _ in engine.slots]
        self._plan: Planned | None = None
        self._planner = ""  # whose plan it is
        self._handout = Handout(cache)
        self._done: list[FileWork] = []  # of workers that ended well
        self._errors: list[tuple[str, MgcliError]] = []  # worker, why it cannot take part
        self._profiles: list[tuple[int, RunProfile]] = []  # slot, what its worker did
        self._planned_at = 0.0
        self._warnings: dict[str, None] = {}  # in the order in which they were said
        self._bar: Progress | None = None

    def work(self) -> None:
        """Until nothing is left to do, and no worker is at work."""
        while True:
            self._start_workers()
            if not any(slot.running for slot in self._slots):
                break
            for number, message in self._engine.wait(_POLL_S):
                self._take(number, message)
        if self._plan is None or self._handout.left:
            raise self._nobody_left()
        for file in self._handout.not_committed(self._done):
            for key in file.clips:
                reason = f"a worker did it, but the cache {self._cache.path} does not hold it; run the command again"
                self._handout.failures[key] = Failure(key[1], "commit", reason)

    def stop(self) -> None:
        """Let the workers commit what is whole; what they still say of failures counts."""
        self._engine.stop()
        until = time.monotonic() + _STOP_S
        while any(slot.running for slot in self._slots) and time.monotonic() < until:
            for number, message in self._engine.wait(_POLL_S):
                slot = self._slots[number]
                if isinstance(message, ClipsOver):
                    self._note_over(slot, message)
                elif isinstance(message, Ended | Lost):
                    slot.running = False

    def close(self) -> None:
        """Keep the list of failed clips, whatever ended the run."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        if self._plan is None:
            return
        shard = self._task.extraction.shard
        for each in self._plan.modalities:
            failures = failures_to_list(self._handout.failures, each.modality)
            feature_set = self._cache.named_set(each.feature_set)
            feature_set.write_failures(failures, None if shard is None else (shard.index, shard.count))

    def report(self, seconds: float) -> ExtractReport:
        """What all workers did together."""
        assert self._plan is not None
        over = [key for file in self._plan.files for key in file.clips]
        profiles = [profile for _, profile in self._profiles]
        devices = len({number for number, _ in self._profiles})
        reports = {
            each.modality: modality_report(each, over, self._handout.failures, seconds)
            for each in self._plan.modalities
        }
        return ExtractReport(
            cache=self._cache.path,
            modalities=reports,
            profile=all_together(profiles, devices=devices, seconds=time.monotonic() - self._planned_at),
            warnings=list(self._warnings),
            shard=self._task.extraction.shard,
        )

    def _start_workers(self) -> None:
        """A worker in every free slot, as long as there is a file for each."""
        wanted = len(self._slots) if self._plan is None else len(self._handout.left)
        for number, slot in enumerate(self._slots):
            if wanted > 0 and slot.usable and not slot.running:
                task = replace(self._task, name=self._engine.slots[number], device=self._engine.device(number))
                slot.last = False
                slot.num_over = 0
                slot.lately = slot.so_far = None
                wanted -= 1
                try:
                    self._engine.start(number, task)
                    slot.running = True
                except EngineError as error:
                    self._cannot_take_part(number, error)

    def _take(self, number: int, message: Message) -> None:
        slot = self._slots[number]
        if isinstance(message, Planned):
            self._take_plan(self._engine.slots[number], message)
        elif isinstance(message, Asking):
            self._engine.answer(number, self._next_file(slot))
        elif isinstance(message, ClipsOver):
            self._note_over(slot, message)
        elif isinstance(message, Warned):
            self._warn(message.message)
        elif isinstance(message, Ended):
            slot.running = False
            self._keep_profile(number, message.profile)
            if message.error is not None:
                self._take_error(number, message.error, message.trace)
            self._done += slot.in_hand
            slot.in_hand = []
        else:
            slot.running = False
            self._keep_profile(number, None)
            self._take_death(number, message.reason)

    def _take_plan(self, worker: str, plan: Planned) -> None:
        """The first plan is that of the run; the others must lead to the same tokens."""
        if self._plan is not None:
            ours = [each.feature_set for each in self._plan.modalities]
            theirs = [each.feature_set for each in plan.modalities]
            if theirs != ours:
                raise EngineError(
                    f"the workers would not make the same tokens: {self._planner} makes {', '.join(ours)}, {worker} "
                    f"{', '.join(theirs)}; give --precision, and the same weights and versions everywhere"
                )
            return
        self._plan, self._planner, self._planned_at = plan, worker, time.monotonic()
        for note in plan.notes:
            print(note, file=sys.stderr)
        self._handout.fill(plan)
        total = sum(len(file.clips) for file in plan.files)
        unit = "view" if any(each.views for each in plan.modalities) else "clip"
        self._bar = Progress("extract", total, unit=unit, shown=self._show_progress)
        self._bar.__enter__()
        for name, error in self._errors:
            self._warn(f"{name} cannot take part: {error}")
        for message in plan.warnings:
            self._warn(message)

    def _next_file(self, slot: _Slot) -> FileWork | None:
        if slot.last:
            return None
        file, slot.last = self._handout.next_file(has_none=not slot.in_hand)
        if file is not None:
            slot.in_hand.append(file)
        return file

    def _note_over(self, slot: _Slot, over: ClipsOver) -> None:
        slot.num_over += over.num_over
        slot.lately = over.lately or slot.lately
        slot.so_far = over.so_far or slot.so_far
        self._handout.failures |= dict(over.failures)
        self._step(over.num_over)

    def _keep_profile(self, number: int, profile: RunProfile | None) -> None:
        """What a worker did, as it says at its end; of one that did not get so far, what it said last."""
        profile = profile or self._slots[number].so_far
        if profile is not None:
            self._profiles.append((number, profile))

    def _step(self, count: int) -> None:
        if self._bar is not None:
            at_work = [slot.lately or RunProfile() for slot in self._slots if slot.running]
            mean_s = sum(each.seconds for each in at_work) / max(1, len(at_work))
            self._bar.step(all_together(at_work, devices=len(at_work), seconds=mean_s).note(), count)

    def _take_error(self, number: int, error: BaseException, trace: str) -> None:
        """A fault that a person can mend costs the run this worker; a bug ends it."""
        if not isinstance(error, MgcliError):
            error.add_note(f"in the worker {self._engine.slots[number]}:\n{trace}")
            raise error
        self._cannot_take_part(number, error)
        self._take_back(self._slots[number], "")

    def _cannot_take_part(self, number: int, error: MgcliError) -> None:
        self._slots[number].usable = False
        self._errors.append((self._engine.slots[number], error))
        if self._plan is not None:
            self._warn(f"{self._engine.slots[number]} cannot take part: {error}")

    def _take_death(self, number: int, reason: str) -> None:
        slot, name = self._slots[number], self._engine.slots[number]
        if not slot.in_hand:  # it would die again
            self._cannot_take_part(number, EngineError(f"{reason}, before it did anything"))
            return
        num_back = self._take_back(slot, f"{name}: {reason}")
        self._warn(f"{name} is lost: {reason}; {num_back} of its clips are done again")

    def _take_back(self, slot: _Slot, death: str) -> int:
        """Have what a worker did not commit done by others; how many clips that are."""
        files, slot.in_hand = slot.in_hand, []
        num_back = self._handout.take_back(files, death)
        num_over = sum(len(file.clips) for file in files) - num_back
        self._step(num_over - slot.num_over)
        return num_back

    def _nobody_left(self) -> MgcliError:
        """Why the run cannot go on: what all workers say, or that they are gone."""
        num_left = sum(len(file.clips) for file in self._handout.left)
        reasons = list(dict.fromkeys(str(error) for _, error in self._errors))
        if self._plan is None and len(reasons) == 1:
            return self._errors[0][1]
        told = "; ".join(f"{name}: {error}" for name, error in self._errors)
        left = f", and {num_left} clips are not done" if self._plan is not None else ""
        return EngineError(f"no worker is left{left} ({told}); what was committed is safe: run the command again")

    def _warn(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings[message] = None
            warn(message)
