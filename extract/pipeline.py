"""Stage one: the clips that a cache lacks, decoded, embedded and written, with failures told and not fatal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.cache import FeatureCache
from mgcli.extract.alone import extract_alone
from mgcli.extract.coordinate import coordinate
from mgcli.extract.engine import choose_engine
from mgcli.extract.modality import checked_clips, modality_configs
from mgcli.extract.plan import Extraction
from mgcli.extract.report import ExtractReport
from mgcli.extract.shard import Shard
from mgcli.extract.views import ViewConfig


def extract_modalities(
    cache: FeatureCache,
    table: pd.DataFrame,
    modalities: Sequence[str],
    *,
    backbones: Mapping[str, str] | None = None,
    tokens: str | Mapping[str, str] | None = None,
    weights: str | Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    views: int | Mapping[str, ViewConfig] | None = None,
    precision: str = "auto",
    store_dtype: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    devices: Sequence[str] | None = None,
    engine: str | None = None,
    shard: Shard | None = None,
    compile: str = "auto",
    decoder: str = "auto",
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
        views: how many augmented views of the training clips there shall be beside the plain one of every clip; or
            modality -> which. Those that are there already are passed over. See `mgcli.extract.views`.
        precision: auto, float32 or bfloat16.
        store_dtype: float16, bfloat16 or float32; by default float32 for float32 and float16 otherwise.
        batch_size: inputs a forward pass; None suits the device.
        workers: videos decoded at once, each in a process of its own; 0 decodes between batches in this one, None
            suits the machine.
        device: such as cpu or cuda:0; None takes a GPU where there is one.
        devices: several of them, a process each, which share the videos.
        engine: "ray" shares the videos among the machines of a Ray cluster; see `mgcli.extract.engine`.
        shard: only this share of the videos; the others are for other machines.
        compile: on, off, or auto: on a GPU, where there are clips enough to pay for it.
        decoder: pyav, torchcodec, or auto: torchcodec on a GPU where it works, PyAV elsewhere.
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
            views=views,
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
        compile=compile,
        decoder=decoder,
    )
    chosen_engine = choose_engine(engine, devices, device)
    table = checked_clips(table)
    if chosen_engine is None:
        report = extract_alone(cache, table, extraction, device=device, show_progress=progress)
    else:
        report = coordinate(cache, table, extraction, chosen_engine, show_progress=progress)
    for each in report.modalities.values():
        if report.profile.inputs and each.done + each.failed:
            cache.named_set(each.feature_set).write_provenance(latest_run=report.profile.to_json())
    return report
