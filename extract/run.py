"""The run of one process: what its feed gives it is read, embedded and written, each beside the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial

import pandas as pd
import torch

from mgcli.cache import FeatureCache
from mgcli.extract.clip_request import ClipEvent, ClipFailed, InputReady
from mgcli.extract.decoder import Decoders, InlineDecoders
from mgcli.extract.decoder_library import Library, choose_library
from mgcli.extract.decoder_process import DecoderProcesses
from mgcli.extract.device import choose_batch_size, choose_decoder_threads, choose_workers, on_device
from mgcli.extract.embed import ModalityEmbedder
from mgcli.extract.feed import Feed
from mgcli.extract.inputs import by_file, read_file
from mgcli.extract.plan import Extraction, plan_stages
from mgcli.extract.read_ahead import read_ahead
from mgcli.extract.run_clock import RunClock, RunProfile
from mgcli.extract.write_behind import WriteBehind

BATCHES_AHEAD = 2  # that are ready while one is in the network


def run_extraction(
    cache: FeatureCache,
    table: pd.DataFrame,
    extraction: Extraction,
    *,
    device: torch.device,
    feed: Feed,
    decoders: Decoders | None = None,
) -> RunProfile:
    """Do what the feed gives until it has no more; see `extract_modalities`.

    However it ends, whole clips are committed, and the feed has heard of all that are over.

    Args:
        cache: where tokens go.
        table: the clips, checked, with their sources.
        extraction: what is asked for.
        device: that the networks run on.
        feed: chooses the videos, and hears of progress and failures.
        decoders: to be used instead of those that are asked for; closed at the end.

    Returns:
        where the time went.
    """
    library, why_not = choose_library(extraction.decoder, device)
    stages = plan_stages(cache, extraction, table, device, library)
    if why_not and any(stage.decoder and stage.requests for stage in stages):
        feed.warning(why_not)
    batch_sizes = [choose_batch_size(extraction.batch_size, device, stage.backbone.in_lanes) for stage in stages]
    num_files = len(by_file([request for stage in stages for request in stage.requests]))
    workers = num_readers(extraction, num_files)
    decoders = decoders or make_decoders(workers, library, feed.warning)
    embedders: dict[str, ModalityEmbedder] = {}
    behind = WriteBehind()
    clock = RunClock(decoders.count, embedders.values(), behind, library)
    with ExitStack() as stack:
        stack.enter_context(on_device(device))
        jobs = feed.jobs(stages)
        for stage, batch_size in zip(stages, batch_sizes, strict=True):
            writer = stack.enter_context(stage.feature_set.writer())
            embedder = ModalityEmbedder(
                stage.backbone,
                writer,
                behind,
                batch_size=batch_size,
                compiled=stage.compiled,
                on_clip=feed.clip_over,
                on_warning=feed.warning,
            )
            embedders[stage.modality] = embedder
            stack.callback(embedder.settle)
        stack.enter_context(behind)
        read = partial(read_file, decoders=decoders)
        lookahead = BATCHES_AHEAD * max(batch_sizes)
        events = stack.enter_context(closing(read_ahead(jobs, read, workers=workers, lookahead=lookahead)))
        stack.enter_context(closing(decoders))  # closed before its readers are waited for
        for event in _timed(events, clock):
            embedder = embedders[event.request.modality]
            if isinstance(event, InputReady):
                embedder.add(event)
                clock.inputs += 1
            elif isinstance(event, ClipFailed):
                embedder.fail(event.request, event.stage, event.reason)
            else:
                feed.warning(f"clip {event.request.clip_id!r}: {event.message}")
            feed.sign_of_life(clock.lately(), clock.profile())
        for embedder in embedders.values():
            embedder.flush()
    return clock.profile()


def num_readers(extraction: Extraction, num_files: int) -> int:
    """Files that one process of a run reads at once.

    No more than its share, or the first of several to be ready would take the videos of the others.
    """
    return min(choose_workers(extraction.workers), -(-num_files // extraction.num_processes))


def make_decoders(workers: int, library: Library, say: Callable[[str], None]) -> Decoders:
    """A process for each file that is read at once; none, and decoding in this one, for no workers."""
    return (DecoderProcesses if workers else InlineDecoders)(choose_decoder_threads(workers), library, say)


def _timed(events: Iterator[ClipEvent], clock: RunClock) -> Iterator[ClipEvent]:
    """The events, and on the clock how long each was waited for."""
    while True:
        started = time.perf_counter()
        event = next(events, None)
        clock.waited_decode_s += time.perf_counter() - started
        if event is None:
            return
        yield event
