"""`mgcli cache ...`: look after the feature cache. (`cache import` reads a data set, so it stands in cli.py.)"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mgcli.cache.console import EXIT_FAULT, CacheOption, JsonOption, open_project_cache, print_result

app = typer.Typer(help="Look after the feature cache.", no_args_is_help=True)


@app.command("ls")
def list_sets(cache: CacheOption = None) -> None:
    """List the feature sets, one line each."""
    for features in open_project_cache(cache).feature_sets():
        typer.echo(f"{features.name}  {features.describe()}")


@app.command()
def info(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """Show what the cache holds: clips, tokens, types, sizes."""
    content = open_project_cache(cache).info()
    print_result(content, _info_text(content), as_json)


@app.command()
def verify(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """Check every part: readable, shapes, offsets, ids and all checksums."""
    from mgcli.cache.maintain import verify_cache

    report = verify_cache(open_project_cache(cache))
    print_result(report.to_json(), report.summary(), as_json)
    if not report.ok:
        raise typer.Exit(EXIT_FAULT)


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(help="Folder name or start of the fingerprint of a feature set.")],
    cache: CacheOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete one feature set."""
    from mgcli.cache.maintain import remove_feature_set

    opened = open_project_cache(cache)
    if not yes:
        typer.confirm(f"delete feature set {name} of {opened.path}?", abort=True, err=True)
    typer.echo(f"deleted {remove_feature_set(opened, name)}")


@app.command("export")
def export(
    name: Annotated[str, typer.Argument(help="Folder name or start of the fingerprint of a feature set.")],
    out: Annotated[Path, typer.Argument(help="File to write; a folder for npy and npz-per-clip.")],
    form: Annotated[str, typer.Option(help="npz, npz-per-clip, npy, hdf5, safetensors or share.")],
    clips: Annotated[Path | None, typer.Option(help="Only the clips of this clip table (CSV).")] = None,
    view: Annotated[int, typer.Option(min=0, help="0 the plain view; 1 and up augmented ones.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one feature set in a form that other programs read, or in one file for another cache."""
    from mgcli.cache.clips import read_clip_table
    from mgcli.cache.exporting import export_features

    table = None if clips is None else read_clip_table(clips)
    opened = open_project_cache(cache)
    report = export_features(opened, name, out, form, table=table, view=view, overwrite=overwrite)
    print_result(report.to_json(), report.summary(), as_json)


@app.command()
def derive(
    name: Annotated[str, typer.Argument(help="Folder name or start of the fingerprint of a feature set.")],
    tokens: Annotated[str, typer.Option(help="Layout to make: time, joint or pooled.")],
    grid: Annotated[
        str | None, typer.Option(help="CLASS,TIMES,PLACES of a window, where the feature set does not say.")
    ] = None,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a smaller token layout from a feature set of layout full, without the videos."""
    from mgcli.cache.derive import derive_layout, parse_grid

    given = None if grid is None else parse_grid(grid)
    report = derive_layout(open_project_cache(cache), name, tokens, grid=given)
    print_result(report.to_json(), report.summary(), as_json)


def _info_text(content: dict[str, Any]) -> str:
    """`cache info` for people."""
    lines = [f"{content['path']} (format version {content['format_version']})"]
    for each in content["feature_sets"]:
        lines.append(
            f"  {each['modality']:<8} {each['backbone']} {each['fingerprint']}: {each['clips']} clips, "
            f"{each['tokens']} tokens of {each['dim']} {each['dtype']} ({each['layout']}), "
            f"{each['bytes'] / 1e6:.1f} MB in {each['parts']} {each['format']} part(s), weights {each['weights']}"
        )
    return "\n".join(lines if content["feature_sets"] else [*lines, "  empty"])
