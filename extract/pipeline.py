"""Stage one: the clips that a cache lacks, decoded, embedded and written, with failures told and not fatal."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mgcli.cache import GRID_KEY, LAYOUTS_KEY, Failure, FeatureCache, FeatureSet, Progress, warn
from mgcli.extract.backbone import Backbone
from mgcli.extract.coordinate import coordinate
from mgcli.extract.device import choose_batch_size, choose_decoder_threads, choose_device, choose_workers
from mgcli.extract.embed import ModalityEmbedder
from mgcli.extract.engine import choose_engine
from mgcli.extract.face import load_detector
from mgcli.extract.feed import Feed, Stage
from mgcli.extract.inputs import ClipFailed, ClipRequest, InputReady, by_file, read_file
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
from mgcli.extract.shard import Shard, files_of, share_of
from mgcli.extract.source import add_sources

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
    devices: Sequence[str] | None = None,
    engine: str | None = None,
    shard: Shard | None = None,
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
        workers: videos decoded at once; 0 decodes between batches, None suits the machine.
        device: such as cpu or cuda:0; None takes a GPU where there is one.
        devices: several of them, a process each, which share the videos.
        engine: "ray" shares the videos among the machines of a Ray cluster; see `mgcli.extract.engine`.
        shard: only this share of the videos; the others are for other machines.
        task: only the clips with a label of this task.
        protocol: name the clip table is kept under.
        weights_dir: folder that weights are looked for first.
        download: fetch published weights that are nowhere.
        progress: show it on stderr.

    Raises:
        MgcliError: something that concerns the whole run: an option, weights, the cache.
    """
    extraction = Extraction(
        configs=modality_configs(
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
        ),
        protocol=protocol,
        shard=shard,
        batch_size=batch_size,
        workers=workers,
    )
    chosen_engine = choose_engine(engine, devices, device)
    table = checked_clips(table)
    if chosen_engine is not None:
        return coordinate(cache, table, extraction, chosen_engine, show_progress=progress)
    return run_extraction(cache, table, extraction, device=device, show_progress=progress)


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What is asked of a run; a plain value, for every process that has a share in it."""

    configs: Sequence[ModalityConfig]
    protocol: str = "table"
    shard: Shard | None = None
    batch_size: int | None = None
    workers: int | None = None


def run_extraction(
    cache: FeatureCache,
    table: pd.DataFrame,
    extraction: Extraction,
    *,
    device: str | None = None,
    feed: Feed | None = None,
    show_progress: bool = True,
) -> ExtractReport:
    """The run of this process: see `extract_modalities`.

    Args:
        cache: where tokens go.
        table: the clips, checked; with their sources where there is a feed.
        extraction: what is asked for.
        device: such as cpu or cuda:0; None takes a GPU where there is one.
        feed: chooses the videos of this process, and hears of progress and failures; None: it does all, and keeps
            the list of failures itself.
        show_progress: on stderr.
    """
    started = time.monotonic()
    chosen_device = choose_device(device)
    batch_size = choose_batch_size(extraction.batch_size, chosen_device)
    workers = choose_workers(extraction.workers)
    if feed is None:
        table = add_sources(table)
    stages = _plan(cache, extraction, table, chosen_device)
    embedders, warnings = _run(stages, extraction.shard, feed, batch_size, workers, show_progress and feed is None)
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
    return ExtractReport(cache=cache.path, modalities=reports, warnings=warnings, shard=extraction.shard)


def _plan(cache: FeatureCache, extraction: Extraction, table: pd.DataFrame, device: torch.device) -> list[Stage]:
    """Make every backbone and find out what the cache lacks; it is not touched before all of them are made."""
    configs = extraction.configs
    clips = [clips_of(config, table) for config in configs]
    backbones = [make_backbone(config, of_it, device) for config, of_it in zip(configs, clips, strict=True)]
    specs = [make_spec(config, backbone) for config, backbone in zip(configs, backbones, strict=True)]
    cache.write_clips(table, extraction.protocol)
    if extraction.shard is not None:
        share = share_of(clips, extraction.shard)
        clips = [of_it[[file in share for file in files_of(of_it)]] for of_it in clips]
    stages = []
    num_requests = 0
    for spec, backbone, of_it in zip(specs, backbones, clips, strict=True):
        feature_set = cache.create_feature_set(spec, _provenance(device, backbone))
        requests = missing_clips(feature_set, backbone, of_it, first_number=num_requests)
        if backbone.reads == "face" and any(request.face is None for request in requests):
            load_detector(backbone.detector, device)  # its weights are missing for all clips or for none
        num_requests += len(requests)
        stages.append(Stage(spec.modality, backbone, feature_set, requests, len(of_it) - len(requests)))
    return stages


def _run(
    stages: Sequence[Stage], shard: Shard | None, feed: Feed | None, batch_size: int, workers: int, show_progress: bool
) -> tuple[dict[str, ModalityEmbedder], list[str]]:
    """Read, embed and write all that is left to do; give each modality's embedder with its counts, and warnings."""
    requests = [request for stage in stages for request in stage.requests]
    embedders: dict[str, ModalityEmbedder] = {}
    warnings: list[str] = []
    num_inputs = 0
    with ExitStack() as stack:
        jobs = by_file(requests) if feed is None else feed.jobs(stages)
        bar = stack.enter_context(Progress("extract", len(requests), unit="clip", shown=show_progress))
        for stage in stages:
            writer = stack.enter_context(stage.feature_set.writer())
            on_clip = partial(_clip_over, bar) if feed is None else feed.clip_over
            embedder = ModalityEmbedder(stage.backbone, writer, batch_size=batch_size, on_clip=on_clip)
            embedders[stage.modality] = embedder
            if feed is None:
                stack.callback(_write_failures, stage.feature_set, embedder, shard)
        read = partial(read_file, decoder_threads=choose_decoder_threads(workers))
        lookahead = max(2, 2 * batch_size // max(1, workers))  # two batches ready, among all workers
        events = stack.enter_context(closing(read_ahead(jobs, read, workers=workers, lookahead=lookahead)))
        for event in events:
            embedder = embedders[event.request.modality]
            if isinstance(event, InputReady):
                embedder.add(event)
                num_inputs += 1
                bar.step(f"{num_inputs} inputs", 0)
                if feed is not None:
                    feed.sign_of_life()
            elif isinstance(event, ClipFailed):
                embedder.fail(event.request, event.stage, event.reason)
            else:
                warnings.append(f"clip {event.request.clip_id!r}: {event.message}")
                (warn if feed is None else feed.warning)(warnings[-1])
        for embedder in embedders.values():
            embedder.flush()
    return embedders, warnings


def _clip_over(bar: Progress, request: ClipRequest, failure: Failure | None) -> None:
    bar.step()


def _write_failures(feature_set: FeatureSet, embedder: ModalityEmbedder, shard: Shard | None) -> None:
    feature_set.write_failures(embedder.failures, None if shard is None else (shard.index, shard.count))


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
