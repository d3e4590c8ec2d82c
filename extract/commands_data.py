"""The commands that begin a project: write its file, check its data, write the clip table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mgcli.cache.console import (
    EXIT_FAULT,
    EXIT_SOME_FAILED,
    CacheOption,
    ClipsOption,
    DatasetOption,
    FormatOption,
    JsonOption,
    ProtocolOption,
    RootOption,
    key_values,
    print_result,
    project_with,
    say,
)
from mgcli.extract.completion import dataset_names

if TYPE_CHECKING:
    import pandas as pd

    from mgcli.cache import Project

app = typer.Typer()
data_app = typer.Typer(help="Check the data, or write the clip table.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.command()
def init(
    dataset: Annotated[str, typer.Argument(help="Data set: see `mgcli datasets`.", autocompletion=dataset_names)],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path(),
    clips: ClipsOption = None,
    cache: CacheOption = None,
    cache_format: FormatOption = None,
    protocol: ProtocolOption = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Of MViTv2-S, a file; or random:SEED, of SwinFace too; kept in mgcli.toml."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, an option of the data set; kept in mgcli.toml.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing mgcli.toml.")] = False,
) -> None:
    """Check the data and write mgcli.toml into this folder."""
    from mgcli.cache import Project, describe_clips, write_project

    given: dict[str, Any] = {"clips": clips, "cache": cache, "format": cache_format}
    given["options"] = key_values(option, "--option") or None
    given = {key: value for key, value in given.items() if value is not None}
    if weights is not None:
        weights = str(Path(weights).resolve()) if Path(weights).is_file() else weights
        filled = ("video", "context", "face") if weights.startswith("random:") else ("video", "context")
        given["extract"] = {modality: {"weights": weights} for modality in filled}
    project = Project(dataset=dataset, root=root, protocol=protocol or "", **given)
    table, protocol = load_clips(project)
    path = write_project(replace(project, protocol=protocol), Path.cwd(), overwrite=overwrite)
    typer.echo(describe_clips(table))
    typer.echo(f"wrote {path}; next: mgcli extract --modality video")


@data_app.command("check")
def data_check(
    all_files: Annotated[
        bool, typer.Option("--all", help="Look into every video and skeleton file, not only into 20 of each.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the sample of files.")] = 0,
    dataset: DatasetOption = None,
    root: RootOption = None,
    clips: ClipsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the data: counts as published, classes, files that are missing or odd, rows left out, leakage.

    Exit code 0: fine, or only warnings; 3: faults that cost clips; 1: splits that stage two would refuse.
    """
    from mgcli.extract import check_dataset, load_project_clips

    project = project_with(dataset=dataset, root=root, clips=clips, protocol=protocol)
    table, protocol = load_project_clips(project)
    report = check_dataset(table, dataset=project.dataset, protocol=protocol, all_files=all_files, seed=seed)
    print_result(report.to_json(), report.summary(), as_json)
    if report.faults:
        raise typer.Exit(EXIT_SOME_FAILED)
    if report.leakage.refused:
        raise typer.Exit(EXIT_FAULT)


@data_app.command("table")
def data_table(
    out: Annotated[Path | None, typer.Option(help="CSV file to write; default stdout.")] = None,
    dataset: DatasetOption = None,
    root: RootOption = None,
    clips: ClipsOption = None,
    protocol: ProtocolOption = None,
) -> None:
    """Write the clip table of the data set as CSV; --clips takes it again."""
    from mgcli.cache import clip_table_csv, committed_file, writing
    from mgcli.extract import load_project_clips

    table, _ = load_project_clips(project_with(dataset=dataset, root=root, clips=clips, protocol=protocol))
    content = clip_table_csv(table)
    if out is None:
        typer.echo(content.decode("utf-8"), nl=False)
        return
    with writing(out), committed_file(out) as temporary:
        temporary.write_bytes(content)
    say(f"wrote {len(table)} clips to {out}")


def load_clips(project: Project) -> tuple[pd.DataFrame, str]:
    """The project's clip table and protocol; what its data set has to say of it goes to stderr."""
    from mgcli.cache import warn
    from mgcli.extract import load_project_clips, table_notes

    table, protocol = load_project_clips(project)
    for note in table_notes(table):
        warn(note)
    return table, protocol
