"""The commands that say how fast stage one is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mgcli.cache.console import JsonOption, key_values, print_result, project_with
from mgcli.extract.commands import CompileOption, DecoderOption, DeviceOption, PrecisionOption, WorkersOption

bench_app = typer.Typer()


@bench_app.command("extract")
def bench_extract(
    backbone: Annotated[
        str | None, typer.Option(help="Time its forward pass alone; see `mgcli backbones`, or package.module:Class.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Token layout, as the backbone names it.")] = None,
    weights: Annotated[
        str, typer.Option(help="File, name in the weights folder, or random:SEED; speed hardly hangs on them.")
    ] = "random:0",
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, any option of the backbone.")] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Inputs a forward pass; with --backbone, repeat for several; default 1, 8, 64."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="To spend on measuring a backbone; three rounds at least.")] = 20.0,
    video: Annotated[
        Path | None,
        typer.Option(help="For a face backbone: time detection, following and alignment in this video too."),
    ] = None,
    videos: Annotated[int, typer.Option(min=1, help="End to end: videos to generate.")] = 3,
    minutes: Annotated[float, typer.Option(help="End to end: length of each video.")] = 2.0,
    clips: Annotated[int, typer.Option(min=1, help="End to end: gesture clips in all videos together.")] = 120,
    size: Annotated[str, typer.Option(help="End to end: WIDTHxHEIGHT of the videos.")] = "1280x720",
    plain_clips: Annotated[int, typer.Option(min=1, help="End to end: clips that the plain loop does.")] = 12,
    workers: WorkersOption = None,
    compile: CompileOption = "auto",
    decoder: DecoderOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time stage one from end to end, against its forward pass and a plain loop; with --backbone, a forward pass.

    From end to end it is timed from H.264 and from frames that are decoded already, and its decoders alone.

    A forward pass is given in inputs a second and as a share of the machine's matrix peak; below float32 it is also
    said how near the tokens come to those in float32.
    """
    from mgcli.extract import PipelineBenchConfig, bench_backbone, bench_extraction

    if backbone is None:
        width, _, height = size.partition("x")
        if not (width.isdigit() and height.isdigit()):
            raise typer.BadParameter(f"--size {size!r}: give WIDTHxHEIGHT, such as 1280x720")
        if len(batch_size or ()) > 1:
            raise typer.BadParameter("--batch-size is given once, unless --backbone names what to time")
        config = PipelineBenchConfig(
            weights=weights,
            tokens=tokens or "full",
            videos=videos,
            minutes=minutes,
            clips=clips,
            width_px=int(width),
            height_px=int(height),
            plain_clips=plain_clips,
            precision=precision,
            batch_size=batch_size[0] if batch_size else None,
            workers=workers,
            compile=compile,
            decoder=decoder,
            device=device,
        )
        timed = bench_extraction(config)
        print_result(timed.to_json(), timed.summary(), as_json)
        return
    report = bench_backbone(
        backbone,
        tokens=tokens,
        weights=weights,
        options=key_values(option, "--option"),
        batch_sizes=batch_size or None,
        seconds=seconds,
        video=video,
        precision=precision,
        compile=compile,
        device=device,
        weights_dir=project_with().weights,
    )
    print_result(report.to_json(), report.summary(), as_json)


@bench_app.command("skeletons")
def bench_skeletons(
    scale: Annotated[
        float, typer.Option(help="Share of iMiGUE's 359 videos and 18,500 clips; 1 makes files of 2.8 GB as csv.")
    ] = 0.05,
    form: Annotated[str, typer.Option(help="csv (light_hand) or xlsx (openpose).")] = "csv",
    workers: WorkersOption = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where files are made for a while; default: the system's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time the reading of skeletons: from files of realistic length, and from the store of parsed ones."""
    from mgcli.extract import bench_skeleton_reading

    report = bench_skeleton_reading(scale=scale, form=form, workers=workers, folder=folder)
    print_result(report.to_json(), report.summary(), as_json)
