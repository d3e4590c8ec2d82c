"""The commands of stage one: train a pose backbone, extract, say why a clip would be computed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mgcli.cache.completion import task_names
from mgcli.cache.console import (
    EXIT_SOME_FAILED,
    AllowLeakageOption,
    CacheOption,
    ClipsOption,
    DatasetOption,
    FormatOption,
    JsonOption,
    ProtocolOption,
    RootOption,
    check_engine,
    key_values,
    make_project_cache,
    open_project_cache,
    print_result,
    project_with,
    stops_with,
)
from mgcli.extract.commands_data import load_clips
from mgcli.extract.completion import backbone_names, modality_names

if TYPE_CHECKING:
    from mgcli.cache import Project
    from mgcli.extract import Shard

app = typer.Typer()
cache_app = typer.Typer()

ViewsOption = Annotated[
    int | None,
    typer.Option("--views", min=0, help="Augmented views of each training clip, beside the plain one; default 0."),
]
ViewSeedOption = Annotated[int | None, typer.Option("--view-seed", help="Of what is drawn for the views; default 0.")]
ViewFlipOption = Annotated[
    bool | None,
    typer.Option("--view-flip/--no-view-flip", help="Mirror half of the views; not where classes name a side."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; default automatic.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="float32, bfloat16 or auto.")]
TokensOption = Annotated[str | None, typer.Option("--tokens", help="Token layout, as the backbone names it.")]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="File, name in the weights folder, or random:SEED.")
]
BackboneOption = Annotated[
    str | None,
    typer.Option("--backbone", help="See `mgcli backbones`, or package.module:Class.", autocompletion=backbone_names),
]
SamplingOption = Annotated[str | None, typer.Option("--sampling", help="Frame sampling, as the backbone names it.")]
BackboneOptionsOption = Annotated[
    list[str] | None, typer.Option("--option", help="KEY=VALUE, any option of the backbone.")
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store-dtype", help="float16, float32 or bfloat16; by default float16, float32 for float32 tokens."),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=0, help="Files read at once; 0 reads between batches.")
]
_VIEW_SETTINGS = {"views": "count", "view_seed": "seed", "view_flip": "flip"}  # of mgcli.toml and of `ViewConfig`
CompileOption = Annotated[
    str, typer.Option("--compile", help="torch.compile: on, off, or auto: on a GPU, for clips enough to pay for it.")
]
DecoderOption = Annotated[
    str,
    typer.Option("--decoder", help="pyav, torchcodec, or auto: torchcodec on a GPU where it works, PyAV elsewhere."),
]


@app.command()
@stops_with("every finished clip is in the cache; run the same command again to go on")
def extract(
    modality: Annotated[
        list[str],
        typer.Option(
            "--modality", help="video, pose, face or context; repeat for several.", autocompletion=modality_names
        ),
    ],
    tokens: TokensOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = "auto",
    backbone: BackboneOption = None,
    sampling: SamplingOption = None,
    option: BackboneOptionsOption = None,
    views: ViewsOption = None,
    view_seed: ViewSeedOption = None,
    view_flip: ViewFlipOption = None,
    store_dtype: StoreOption = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Only clips of this task, gesture or emotion; default: the modality's.", autocompletion=task_names
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Inputs a forward pass; default automatic.")] = None,
    workers: WorkersOption = None,
    device: DeviceOption = None,
    devices: Annotated[
        str | None, typer.Option(help="Several devices that share the videos, a process each: 0,1,2,3 or cpu,cpu.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only share I of N of the videos, counted from 0, such as 0/3.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="ray: share the videos among the machines of a Ray cluster that is running.")
    ] = None,
    compile: CompileOption = "auto",
    decoder: DecoderOption = "auto",
    download: Annotated[bool, typer.Option(help="Fetch published weights that are not here.")] = True,
    dataset: DatasetOption = None,
    root: RootOption = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    cache_format: FormatOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the frozen backbones over every clip and store their tokens."""
    from mgcli.extract import extract_modalities

    share = _workers_asked_for(device, devices, shard, engine)
    project = project_with(dataset=dataset, root=root, clips=clips, cache=cache, format=cache_format, protocol=protocol)
    given = {"views": views, "view_seed": view_seed, "view_flip": view_flip}
    asked_for = _asked_for(project, modality, backbone, tokens, weights, sampling, option, given)
    table, protocol = load_clips(project)
    report = extract_modalities(
        make_project_cache(project),
        table,
        modality,
        **asked_for,
        precision=precision,
        store_dtype=store_dtype,
        batch_size=batch_size,
        workers=workers,
        device=device,
        devices=None if devices is None else devices.split(","),
        engine=engine,
        shard=share,
        compile=compile,
        decoder=decoder,
        task=task,
        protocol=protocol,
        weights_dir=project.weights,
        download=download,
    )
    print_result(report.to_json(), report.summary(), as_json)
    if report.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command("backbone-train")
@stops_with("of the training at most the last half minute is lost; run the same command again to go on")
def backbone_train(
    modality: Annotated[str, typer.Option(help="pose: the two streams of 2s-AGCN.")],
    task: Annotated[
        str, typer.Option(help="Whose labels it learns: gesture or emotion.", autocompletion=task_names)
    ] = "gesture",
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, any setting of the training or option of the backbone.")
    ] = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = None,
    workers: WorkersOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint that was trained otherwise.")
    ] = False,
    allow_leakage: AllowLeakageOption = False,
    dataset: DatasetOption = None,
    root: RootOption = None,
    clips: ClipsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train 2s-AGCN on the training split's skeletons; `extract --modality pose` then takes the checkpoint."""
    from mgcli.extract import train_pose_backbone

    if modality != "pose":
        raise typer.BadParameter(
            f"--modality {modality!r}: only pose is trained here; the other backbones are published"
        )
    project = project_with(dataset=dataset, root=root, clips=clips, protocol=protocol)
    table, protocol = load_clips(project)
    report = train_pose_backbone(
        table,
        task=task,
        settings=key_values(option, "--option"),
        protocol=protocol,
        weights_dir=project.weights,
        precision=precision,
        device=device,
        workers=workers,
        overwrite=overwrite,
        allow_leakage=allow_leakage,
    )
    print_result(report.to_json(), report.summary(), as_json)
    if report.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


@cache_app.command("explain")
def cache_explain(
    clip_id: Annotated[str, typer.Argument(help="The clip.")],
    modality: Annotated[
        list[str],
        typer.Option(
            "--modality", help="video, pose, face or context; repeat for several.", autocompletion=modality_names
        ),
    ],
    tokens: TokensOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = "auto",
    backbone: BackboneOption = None,
    sampling: SamplingOption = None,
    option: BackboneOptionsOption = None,
    views: ViewsOption = None,
    view_seed: ViewSeedOption = None,
    view_flip: ViewFlipOption = None,
    store_dtype: StoreOption = None,
    dataset: DatasetOption = None,
    root: RootOption = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why an extraction with these settings would compute a clip, or pass over it."""
    from mgcli.extract import explain_extraction

    project = project_with(dataset=dataset, root=root, clips=clips, cache=cache, protocol=protocol)
    opened = open_project_cache(project.cache)
    table, protocol = load_clips(project)
    given = {"views": views, "view_seed": view_seed, "view_flip": view_flip}
    explanations = explain_extraction(
        opened,
        table,
        clip_id,
        modality,
        **_asked_for(project, modality, backbone, tokens, weights, sampling, option, given),
        precision=precision,
        store_dtype=store_dtype,
        protocol=protocol,
        weights_dir=project.weights,
    )
    if as_json:
        typer.echo(json.dumps([each.to_json() for each in explanations]))
    else:
        typer.echo("\n".join(each.summary() for each in explanations))


def _workers_asked_for(device: str | None, devices: str | None, shard: str | None, engine: str | None) -> Shard | None:
    """The shard, once the options that share the work out are known to go together."""
    from mgcli.extract import Shard

    check_engine(engine)
    if engine is not None and (devices is not None or shard is not None):
        raise typer.BadParameter("--engine ray shares the videos out by itself: leave --devices and --shard away")
    if devices is not None and device is not None:
        raise typer.BadParameter("give --device or --devices, not both")
    if devices is not None and not all(name.strip() for name in devices.split(",")):
        raise typer.BadParameter(f"--devices takes names with commas between them, such as 0,1, not {devices!r}")
    if shard is None:
        return None
    try:
        return Shard.parse(shard)
    except ValueError as error:
        raise typer.BadParameter(f"--shard: {error}") from None


def _asked_for(
    project: Project,
    modality: list[str],
    backbone: str | None,
    tokens: str | None,
    weights: str | None,
    sampling: str | None,
    option: list[str] | None,
    views: dict[str, Any],
) -> dict[str, Any]:
    """What mgcli.toml and the flags ask of the backbones and the views, as `extract_modalities` takes it."""
    from mgcli.extract import ViewConfig

    if backbone is not None and len(modality) > 1:
        raise typer.BadParameter("--backbone takes one --modality at a time")
    settings = {name: _settings(project, name, sampling, option) for name in modality}
    of_views = {name: values["views"] | _given(views) for name, values in settings.items()}
    return {
        "backbones": {modality[0]: backbone} if backbone else _pick(settings, "backbone"),
        "tokens": tokens or _pick(settings, "tokens"),
        "weights": weights or _pick(settings, "weights"),
        "options": {name: values["options"] for name, values in settings.items()},
        "views": {
            name: ViewConfig(**{_VIEW_SETTINGS[key]: value for key, value in each.items()})
            for name, each in of_views.items()
        },
    }


def _settings(project: Project, modality: str, sampling: str | None, option: list[str] | None) -> dict[str, Any]:
    """What mgcli.toml says of a modality: backbone, tokens, weights, views, and options with the flags' in place."""
    settings: dict[str, Any] = {"options": dict(project.extract.get(modality, {}))}
    settings["views"] = {key: settings["options"].pop(key) for key in _VIEW_SETTINGS if key in settings["options"]}
    for name in ("backbone", "tokens", "weights"):
        if name in settings["options"]:
            settings[name] = settings["options"].pop(name)
    if sampling is not None:
        settings["options"]["sampling"] = sampling
    settings["options"] |= key_values(option, "--option")
    return settings


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _pick(settings: dict[str, dict[str, Any]], name: str) -> dict[str, str]:
    return {modality: values[name] for modality, values in settings.items() if name in values}
