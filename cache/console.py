"""What the commands of all rooms share: options, the project's settings, printing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from mgcli.cache.completion import protocol_names
from mgcli.cache.text_table import align_columns

if TYPE_CHECKING:
    from mgcli.cache.project import Project
    from mgcli.cache.store import FeatureCache

EXIT_FAULT = 1  # a user's mistake or a data fault
EXIT_SOME_FAILED = 3  # finished, but some clips failed


_P = ParamSpec("_P")


def stops_with(what_is_safe: str) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """For a command: what Ctrl-C leaves whole, and what to run next. Without it the command line says the usual."""

    def decorate(command: Callable[_P, None]) -> Callable[_P, None]:
        @wraps(command)
        def stoppable(*args: _P.args, **kwargs: _P.kwargs) -> None:
            try:
                command(*args, **kwargs)
            except KeyboardInterrupt:
                from mgcli.cache.interrupt import StoppedError

                raise StoppedError(what_is_safe) from None

        return stoppable

    return decorate


def check_engine(engine: str | None) -> None:
    """Whether `--engine` names one.

    Raises:
        typer.BadParameter: it does not.
    """
    from mgcli.cache import ENGINES

    if engine not in (None, *ENGINES):
        known = ", ".join(ENGINES)
        raise typer.BadParameter(f"--engine {engine!r}: known: {known}; without it this machine works alone")


def parse_place(text: str) -> Path:
    """A folder, or s3://..., as a flag or argument names it."""
    from mgcli.cache.place import as_place

    return as_place(text)


CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", parser=parse_place, metavar="PATH", help="Cache: folder or s3://...; else of mgcli.toml."),
]
ClipsOption = Annotated[Path | None, typer.Option("--clips", help="Clip table (CSV); default from mgcli.toml.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Data set; default from mgcli.toml.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Folder of the data set.")]
FormatOption = Annotated[str | None, typer.Option("--format", help="hdf5 or zarr, for a cache that is made new.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol", help="Split of the data set, or a name to keep a clip table under.", autocompletion=protocol_names
    ),
]
AllowLeakageOption = Annotated[
    bool, typer.Option("--allow-leakage", help="Go on where the leakage guard refuses; every table then says so.")
]


def project_with(**given: Any) -> Project:
    """The project file's settings, with the flags that were given in their place."""
    from mgcli.cache.project import load_project  # only now: --help stays light

    project = load_project()
    if given.get("dataset") not in (None, project.dataset):
        project = replace(project, protocol="", options={})  # those of another data set
    return replace(project, **{key: value for key, value in given.items() if value is not None})


def open_project_cache(path: Path | None) -> FeatureCache:
    """The cache of a flag, or the project's."""
    from mgcli.cache.store import open_cache

    return open_cache(path or project_with().cache)


def make_project_cache(project: Project) -> FeatureCache:
    """The project's cache, made where there is none."""
    from mgcli.cache.store import open_cache

    return open_cache(project.cache, create=True, format=project.format)


def key_values(given: list[str] | None, flag: str) -> dict[str, Any]:
    """KEY=VALUE pairs; a value is JSON where it can be read so, plain text otherwise."""
    pairs: dict[str, Any] = {}
    for each in given or []:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{flag} takes KEY=VALUE, not {each!r}")
        try:
            pairs[key] = json.loads(value)
        except json.JSONDecodeError:
            pairs[key] = value
    return pairs


def print_result(result: dict[str, Any], text: str, as_json: bool) -> None:
    """A result on stdout, for a machine or for a person."""
    typer.echo(json.dumps(result) if as_json else text)


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Dictionaries with the same keys, as a table or as JSON."""
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    typer.echo("\n".join(align_columns(table)))


def say(message: str) -> None:
    """A line for the person who waits, on stderr; stdout is for results."""
    typer.echo(message, err=True)
