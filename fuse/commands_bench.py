"""The command that says how fast stage two is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mgcli.cache.console import JsonOption, print_result, say

bench_app = typer.Typer()


@bench_app.command("fuse")
def bench_fuse(
    head: Annotated[str, typer.Option(help="See `mgcli heads`, or package.module:Class.")] = "cross_modal_token_fusion",
    clips: Annotated[int, typer.Option(help="Clips of one run, an eighth of them for validation.")] = 2048,
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 3,
    plain_epochs: Annotated[
        int, typer.Option(help="Of the plain loop, where as many would take too long; 0: as many.")
    ] = 0,
    seeds: Annotated[int, typer.Option(help="Of our run; side by side or in a stack, as fuse-train does.")] = 5,
    replicas: Annotated[str, typer.Option(help="Train the seeds of our run together: on, off, or auto.")] = "auto",
    rounds: Annotated[int, typer.Option(help="Each is timed so often, in turn.")] = 3,
    workers: Annotated[int, typer.Option(help="Processes of the plain loop's data loader.")] = 2,
    many_clips: Annotated[int, typer.Option(help="Clips of the time to the first epoch.")] = 14_000,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes cuda where there is one.")] = "auto",
    folder: Annotated[
        Path | None, typer.Option(help="Where caches are made for a while; default: the system's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time a run of several seeds against a plain loop, and the time from opening a cache to the first epoch."""
    from mgcli.fuse import FuseBenchConfig, bench_fusion

    config = FuseBenchConfig(
        head=head,
        clips=clips,
        epochs=epochs,
        plain_epochs=plain_epochs,
        seeds=seeds,
        replicas=replicas,
        rounds=rounds,
        workers=workers,
        many_clips=many_clips,
        device=device,
    )
    report = bench_fusion(config, folder=folder, say=say)
    print_result(report.to_json(), report.summary(), as_json)
