"""The commands that say what there is: backbones, data sets, weights; and the import of released weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mgcli.cache.console import JsonOption, key_values, print_result, print_rows, project_with, say
from mgcli.extract.completion import backbone_names

app = typer.Typer()
weights_app = typer.Typer(help="List every weights file, or import a released one.")
app.add_typer(weights_app, name="weights")


@app.command()
def backbones(as_json: JsonOption = False) -> None:
    """List the frozen backbones: token layouts, weights, licence, and whether the weights are here."""
    from mgcli.extract import describe_backbones

    print_rows(describe_backbones(project_with().weights), as_json)


@app.command()
def datasets(as_json: JsonOption = False) -> None:
    """List the data sets that `init` and `extract` know."""
    from mgcli.extract import describe_datasets

    print_rows(describe_datasets(), as_json)


@weights_app.callback(invoke_without_command=True)
def weights(context: typer.Context, as_json: JsonOption = False) -> None:
    """List every weights file: size, hash, licence, where it comes from, and whether it is here."""
    if context.invoked_subcommand is not None:
        return
    from mgcli.extract import describe_weights, weights_folders

    folder = project_with().weights
    print_rows(describe_weights(folder), as_json)
    say(f"looked for in: {', '.join(map(str, weights_folders(folder)))}")


@weights_app.command("import")
def weights_import(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Checkpoint, or its name in the weights folder; for agcn_two_stream two, joint stream first.",
        ),
    ],
    backbone: Annotated[
        str, typer.Option(help="Backbone it is for; see `mgcli backbones`.", autocompletion=backbone_names)
    ],
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, an option of the backbone, such as joints=ntu25; kept with the file."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; by default FILE's name with .safetensors (of two the first one's, with "
            "-two_stream.safetensors), in the weights folder."
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the checkpoint, where mgcli does not know it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a released checkpoint once to .safetensors, checked name by name; nothing in it is run."""
    from mgcli.extract import import_weights

    imported = import_weights(
        files,
        backbone,
        out=out,
        weights_dir=project_with().weights,
        options=key_values(option, "--option"),
        licence=licence,
        overwrite=overwrite,
    )
    print_result(imported.to_json(), imported.summary(), as_json)
