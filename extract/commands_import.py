"""`mgcli cache import`: features that others made, for the clips of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mgcli.cache.console import (
    EXIT_SOME_FAILED,
    CacheOption,
    ClipsOption,
    FormatOption,
    JsonOption,
    ProtocolOption,
    make_project_cache,
    print_result,
    project_with,
    stops_with,
)

app = typer.Typer()


@app.command("import")
@stops_with("clips that came in are whole and stay; run the same command again to go on")
def cache_import(
    file: Annotated[
        Path,
        typer.Argument(help=".npz, .h5 or .safetensors keyed by clip id, a folder of .npy or .npz, or a shared file."),
    ],
    modality: Annotated[str | None, typer.Option(help="Modality under which the features are stored.")] = None,
    backbone: Annotated[str | None, typer.Option(help="What made them, for the tables.")] = None,
    key: Annotated[str | None, typer.Option(help="Array to take, where each clip has several.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="File names in a folder, such as '{clip_id}_i3d_rgb.npy'; default: the clip id.")
    ] = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    cache_format: FormatOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store features that another program made, or that another cache shared, so that stage two can start."""
    from mgcli.cache import import_features, import_share, is_share
    from mgcli.extract import load_project_clips

    project = project_with(clips=clips, cache=cache, format=cache_format, protocol=protocol)
    if is_share(file):
        if modality or backbone or key or pattern or clips or protocol:
            raise typer.BadParameter("a shared file brings its own modality, backbone and clip tables")
        shared = import_share(make_project_cache(project), file)
        print_result(shared.to_json(), shared.summary(), as_json)
        return
    if modality is None or backbone is None:
        raise typer.BadParameter(
            f"{file.name} was not made by `cache export --form share`: give --modality and --backbone"
        )
    table, protocol = load_project_clips(project)
    report = import_features(
        make_project_cache(project),
        file,
        modality,
        backbone,
        table,
        protocol=protocol,
        key=key,
        pattern=pattern,
    )
    print_result(report.to_json(), report.summary(), as_json)
    if report.failures:
        raise typer.Exit(EXIT_SOME_FAILED)
