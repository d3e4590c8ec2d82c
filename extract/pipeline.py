"""Stage one: the clips that a cache lacks, decoded, embedded and written, with failures told and not fatal."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mgcli.cache import GRID_KEY, LAYOUTS_KEY, FeatureCache, FeatureSet, Progress, warn
from mgcli.extract.backbone import Backbone
from mgcli.extract.decoder import Decoders, InlineDecoders
from mgcli.extract.decoder_process import DecoderProcesses
from mgcli.extract.device import (
    choose_batch_size,
    choose_compile,
    choose_decoder_threads,
    choose_device,
    choose_workers,
)
from mgcli.extract.embed import ModalityEmbedder
from mgcli.extract.face import load_detector
from mgcli.extract.inputs import ClipEvent, ClipFailed, ClipRequest, InputReady, by_file, read_file
from mgcli.extract.modality import (
    ModalityConfig,
    checked_clips,
    clips_of,
    make_backbone,
    make_spec,
    missing_clips,
    modality_configs,
)
from mgcli.extract.read_ahead import read_ahead
from mgcli.extract.report import ExtractReport, ModalityReport
from mgcli.extract.run_clock import RunClock, RunProfile
from mgcli.extract.source import add_sources
from mgcli.extract.write_behind import WriteBehind

_PROVENANCE_PACKAGES = ("mgcli", "torch", "torchvision", "timm", "av", "numpy")


def extract_modalities(
    cache: FeatureCache,
    table: pd.DataFrame,
    modalities: Sequence[str],
    *,
    backbones: Mapping[str, str] | None = None,
    tokens: str | Mapping[str, str] | None = None,
    weights: str | Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    precision: str = "auto",
    store_dtype: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    compile: str = "auto",
    task: str | None = None,
    protocol: str = "table",
    weights_dir: Path | None = None,
    download: bool = False,
    progress: bool = True,
) -> ExtractReport:
    """Compute and store the tokens that the cache lacks; each video is decoded once for all modalities.

    A clip that fails is listed in the feature set's `failures.csv` and the run goes on; the next run tries it
    again. However the run ends, whole clips are committed.

    Args:
        cache: where tokens go.
        table: the clips, as `load_dataset` or `read_clip_table` gives them.
        modalities: such as video, pose, context.
        backbones: modality -> backbone, where it is not the usual one.
        tokens: token layout, for each modality that offers it; or modality -> layout.
        weights: file, name in a weights folder or "random:SEED", for each modality that has weights; or
            modality -> weights.
        options: modality -> options of its backbone.
        precision: auto, float32 or bfloat16.
        store_dtype: float16, bfloat16 or float32; by default float32 for float32 and float16 otherwise.
        batch_size: inputs a forward pass; None suits the device.
        workers: videos decoded at once, each in a process of its own; 0 decodes between batches in this one, None
            suits the machine.
        device: such as cpu or cuda:0; None takes a GPU where there is one.
        compile: on, off, or auto: on a GPU, where there are clips enough to pay for it.
        task: only the clips with a label of this task.
        protocol: name the clip table is kept under.
        weights_dir: folder that weights are looked for first.
        download: fetch published weights that are nowhere.
        progress: show it on stderr.

    Raises:
        MgcliError: something that concerns the whole run: an option, weights, the cache.
    """
    started = time.monotonic()
    chosen_device = choose_device(device)
    choose_compile(compile, chosen_device, 0)  # refused before any work
    batch_size = choose_batch_size(batch_size, chosen_device)
    workers = choose_workers(workers)
    configs = modality_configs(
        modalities,
        backbones=backbones,
        tokens=tokens,
        weights=weights,
        options=options,
        precision=precision,
        store_dtype=store_dtype,
        task=task,
        protocol=protocol,
        weights_dir=weights_dir,
        download=download,
    )
    table = add_sources(checked_clips(table))
    stages = _plan(cache, configs, table, chosen_device, protocol)
    replaced = [said for stage in stages if (said := _replaced_clips(stage))]
    for said in replaced:
        warn(said)
    embedders, warnings, profile = _run(
        stages, batch_size=batch_size, workers=workers, compile=compile, show_progress=progress
    )
    seconds = time.monotonic() - started
    reports = {
        stage.modality: ModalityReport(
            feature_set=stage.feature_set.name,
            weights=stage.feature_set.spec.weights,
            done=embedders[stage.modality].num_done,
            skipped=stage.num_skipped,
            failed=len(embedders[stage.modality].failures),
            seconds=seconds,
        )
        for stage in stages
    }
    return ExtractReport(cache=cache.path, modalities=reports, profile=profile, warnings=replaced + warnings)


@dataclass(frozen=True, eq=False)
class _Stage:
    """One modality of a run: what it is computed with, where to, and what is left to do."""

    modality: str
    backbone: Backbone
    feature_set: FeatureSet
    requests: list[ClipRequest]
    num_skipped: int


def _plan(
    cache: FeatureCache, configs: Sequence[ModalityConfig], table: pd.DataFrame, device: torch.device, protocol: str
) -> list[_Stage]:
    """Make every backbone and find out what the cache lacks; it is not touched before all of them are made."""
    clips = [clips_of(config, table) for config in configs]
    backbones = [make_backbone(config, of_it, device) for config, of_it in zip(configs, clips, strict=True)]
    specs = [make_spec(config, backbone) for config, backbone in zip(configs, backbones, strict=True)]
    cache.write_clips(table, protocol)
    stages = []
    num_requests = 0
    for spec, backbone, of_it in zip(specs, backbones, clips, strict=True):
        feature_set = cache.create_feature_set(spec, _provenance(device, backbone))
        requests = missing_clips(feature_set, backbone, of_it, first_number=num_requests)
        if backbone.reads == "face" and any(request.face is None for request in requests):
            load_detector(backbone.detector, device)  # its weights are missing for all clips or for none
        num_requests += len(requests)
        stages.append(_Stage(spec.modality, backbone, feature_set, requests, len(of_it) - len(requests)))
    return stages


def _replaced_clips(stage: _Stage) -> str:
    """A warning if clips were extracted before from another video or interval; empty if none were."""
    known = set(stage.feature_set.clips()["clip_id"]) if stage.requests and len(stage.feature_set) else set()
    count = sum(request.clip_id in known for request in stage.requests)
    if not count:
        return ""
    are = "clip is" if count == 1 else "clips are"
    return (
        f"{stage.modality}: {count} {are} in the cache as made from another file or interval, and extracted again; "
        f"what differs: mgcli cache explain CLIP --modality {stage.modality}"
    )


def _run(
    stages: Sequence[_Stage], *, batch_size: int, workers: int, compile: str, show_progress: bool
) -> tuple[dict[str, ModalityEmbedder], list[str], RunProfile]:
    """Read, embed and write all that is left to do; each modality's embedder with its counts, warnings, the profile."""
    requests = [request for stage in stages for request in stage.requests]
    embedders: dict[str, ModalityEmbedder] = {}
    warnings: list[str] = []
    files = by_file(requests)
    workers = min(workers, len(files))
    threads = choose_decoder_threads(workers)
    decoders: Decoders = DecoderProcesses(threads) if workers else InlineDecoders(threads)
    behind = WriteBehind()
    clock = RunClock(decoders.count, embedders.values(), behind)
    with ExitStack() as stack:
        bar = stack.enter_context(Progress("extract", len(requests), unit="clip", shown=show_progress))

        def clip_over() -> None:
            bar.step(clock.note())

        for stage in stages:
            compiled = bool(stage.requests) and choose_compile(compile, stage.backbone.device, len(stage.requests))
            if compiled:
                say = f"{stage.backbone.name} is compiled for {len(stage.requests)} clips; --compile off forbids it"
                print(say, file=sys.stderr)
            writer = stack.enter_context(stage.feature_set.writer())
            embedder = ModalityEmbedder(
                stage.backbone, writer, behind, batch_size=batch_size, compiled=compiled, on_clip=clip_over
            )
            embedders[stage.modality] = embedder
            stack.callback(_write_failures, stage.feature_set, embedder)
        stack.enter_context(behind)
        read = partial(read_file, decoders=decoders)
        lookahead = max(2, 2 * batch_size)  # two batches ready
        events = stack.enter_context(closing(read_ahead(files, read, workers=workers, lookahead=lookahead)))
        stack.enter_context(closing(decoders))  # closed before its readers are waited for
        for event in _timed(events, clock):
            embedder = embedders[event.request.modality]
            if isinstance(event, InputReady):
                embedder.add(event)
                clock.inputs += 1
                bar.step(clock.note(), 0)
            elif isinstance(event, ClipFailed):
                embedder.fail(event.request, event.stage, event.reason)
            else:
                warnings.append(f"clip {event.request.clip_id!r}: {event.message}")
                warn(warnings[-1])
        for embedder in embedders.values():
            embedder.flush()
    profile = clock.profile()
    for stage in stages:
        if stage.requests and profile.inputs:
            stage.feature_set.write_provenance(latest_run=profile.to_json())
    return embedders, warnings, profile


def _timed(events: Iterator[ClipEvent], clock: RunClock) -> Iterator[ClipEvent]:
    """The events, and on the clock how long each was waited for."""
    while True:
        started = time.perf_counter()
        event = next(events, None)
        clock.waited_decode_s += time.perf_counter() - started
        if event is None:
            return
        yield event


def _write_failures(feature_set: FeatureSet, embedder: ModalityEmbedder) -> None:
    embedder.settle()
    feature_set.write_failures(embedder.failures)


def _provenance(device: torch.device, backbone: Backbone) -> dict[str, Any]:
    """What made the tokens and does not change them."""
    trained_on = {} if backbone.trained_on is None else {"trained_on": backbone.trained_on}
    lies = {} if backbone.token_grid is None else {GRID_KEY: asdict(backbone.token_grid)}
    return {
        **trained_on,
        **lies,
        LAYOUTS_KEY: list(backbone.layouts),
        **{name: version(name) for name in _PROVENANCE_PACKAGES},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} {platform.machine()}",
        "host": platform.node(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
