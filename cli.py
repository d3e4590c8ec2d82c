"""The command line: parses, calls, prints. Each command is a few lines over a function that a notebook can call."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from mgcli.cache import FeatureCache, Project

app = typer.Typer(
    name="mgcli",
    help="Frozen backbones once, fusion heads in seconds: micro-gestures and emotion from video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cache_app = typer.Typer(help="Look after the feature cache.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

EXIT_FAULT = 1  # a user's mistake or a data fault
EXIT_SOME_FAILED = 3  # finished, but some clips failed
_DEMO_FOLDERS: dict[str, Any] = {
    "root": Path("data"),
    "cache": Path("features"),
    "runs": Path("runs"),
    "weights": Path("weights"),
}

CacheOption = Annotated[Path | None, typer.Option("--cache", help="Cache folder; default from mgcli.toml.")]
ClipsOption = Annotated[Path | None, typer.Option("--clips", help="Clip table (CSV); default from mgcli.toml.")]
FormatOption = Annotated[str | None, typer.Option("--format", help="hdf5 or zarr, for a cache that is made new.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ProtocolOption = Annotated[str | None, typer.Option("--protocol", help="Name under which the clip table is kept.")]
RunsOption = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default from mgcli.toml.")]
RunArgument = Annotated[Path, typer.Argument(help="A run's folder.")]


def main() -> None:
    """Entry point: a user's mistake prints its message and exits 1; a bug keeps its traceback."""
    sys.path.append(str(Path.cwd()))  # where a user's own package.module:Class may lie
    try:
        app()
    except Exception as error:
        from mgcli.cache import MgcliError  # only now: --help stays light

        if not isinstance(error, MgcliError):
            raise
        print(f"mgcli: {error}", file=sys.stderr)
        raise SystemExit(EXIT_FAULT) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mgcli {version('mgcli')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's files go.")] = Path("mgcli-demo"),
    weights: Annotated[
        str | None, typer.Option(help="Of MViTv2-S; by default the published file where it is here, else random:0.")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each head.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """The main job end to end, offline: make a small data set, extract, train both tasks, print the tables."""
    from mgcli.cache import Project, write_project
    from mgcli.extract import extract_modalities, make_demo, weights_are_here
    from mgcli.fuse import compare_heads, make_config, results_table

    started = time.monotonic()
    project = Project(
        dataset="demo",
        root=folder / "data",
        protocol="demo",
        cache=folder / "features",
        runs=folder / "runs",
        weights=_project().weights,
    )
    used = weights or ("published" if weights_are_here("mvit_v2_s", project.weights) else "random:0")
    note = f"the demo's videos are synthetic, drawn by mgcli; MViTv2-S weights: {used}"
    _say(note)
    make_demo(project.root)
    write_project(replace(project, **_DEMO_FOLDERS), folder, overwrite=True)
    table, cache = _read_clips(project), _make_cache(project)
    for modalities, task in ((["video"], "gesture"), (["context", "pose"], None)):
        report = extract_modalities(
            cache,
            table,
            modalities,
            weights=None if used == "published" else used,
            precision=precision,
            task=task,
            protocol=project.protocol,
            weights_dir=project.weights,
        )
        _say(report.summary())
        if report.failed:
            raise typer.Exit(EXIT_SOME_FAILED)
    tasks = {}
    config = make_config({"min_steps": 250})  # half the usual: the planted signs are plain
    for task in ("gesture", "emotion"):
        runs = compare_heads(cache, task, seeds=seeds, runs=project.runs, notes=["synthetic data"], config=config)
        tasks[task] = {run.label: run.metrics["test"]["top1"]["mean"] for run in runs}
        typer.echo(results_table(runs) + "\n", err=as_json)
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        typer.echo(json.dumps({"tasks": tasks, "seconds": seconds, "weights": used, "data": "synthetic"}))
    else:
        typer.echo(f"{note}\ndone in {seconds:.0f} s; go on with: cd {folder} && mgcli fuse-train --task emotion")


@app.command()
def init(
    dataset: Annotated[str, typer.Argument(help="Data set: see `mgcli datasets`.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path(),
    clips: ClipsOption = None,
    cache: CacheOption = None,
    cache_format: FormatOption = None,
    protocol: ProtocolOption = None,
    weights: Annotated[
        str | None, typer.Option(help="Of MViTv2-S, for video and context: a file, or random:SEED; kept in mgcli.toml.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing mgcli.toml.")] = False,
) -> None:
    """Check the data and write mgcli.toml into this folder."""
    from mgcli.cache import Project, describe_clips, write_project

    given: dict[str, Any] = {"clips": clips, "cache": cache, "format": cache_format}
    given = {key: value for key, value in given.items() if value is not None}
    if weights is not None:
        weights = str(Path(weights).resolve()) if Path(weights).is_file() else weights
        given["extract"] = {modality: {"weights": weights} for modality in ("video", "context")}
    project = Project(dataset=dataset, root=root, protocol=protocol or dataset, **given)
    table = _read_clips(project)
    path = write_project(project, Path.cwd(), overwrite=overwrite)
    typer.echo(describe_clips(table))
    typer.echo(f"wrote {path}; next: mgcli extract --modality video")


@app.command()
def extract(
    modality: Annotated[
        list[str], typer.Option("--modality", help="video, pose, face or context; repeat for several.")
    ],
    tokens: Annotated[str | None, typer.Option(help="Token layout, as the backbone names it.")] = None,
    weights: Annotated[str | None, typer.Option(help="File, name in the weights folder, or random:SEED.")] = None,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "auto",
    backbone: Annotated[str | None, typer.Option(help="See `mgcli backbones`, or package.module:Class.")] = None,
    sampling: Annotated[str | None, typer.Option(help="Frame sampling, as the backbone names it.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, any option of the backbone.")] = None,
    store_dtype: Annotated[
        str | None, typer.Option(help="float16, float32 or bfloat16; by default float16, float32 for float32 tokens.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only clips with a label of this task: gesture or emotion.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Inputs a forward pass; default automatic.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Videos decoded at once; 0 decodes in line.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default automatic.")] = None,
    download: Annotated[bool, typer.Option(help="Fetch published weights that are not here.")] = True,
    dataset: Annotated[str | None, typer.Option(help="Data set; default from mgcli.toml.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    cache_format: FormatOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the frozen backbones over every clip and store their tokens."""
    from mgcli.extract import extract_modalities

    project = _project(dataset=dataset, root=root, clips=clips, cache=cache, format=cache_format, protocol=protocol)
    if backbone is not None and len(modality) > 1:
        raise typer.BadParameter("--backbone takes one --modality at a time")
    settings = {name: _extract_settings(project, name, sampling, option) for name in modality}
    table = _read_clips(project)
    report = extract_modalities(
        _make_cache(project),
        table,
        modality,
        backbones={modality[0]: backbone} if backbone else _pick(settings, "backbone"),
        tokens=tokens or _pick(settings, "tokens"),
        weights=weights or _pick(settings, "weights"),
        options={name: values["options"] for name, values in settings.items()},
        precision=precision,
        store_dtype=store_dtype,
        batch_size=batch_size,
        workers=workers,
        device=device,
        task=task,
        protocol=project.protocol,
        weights_dir=project.weights,
        download=download,
    )
    typer.echo(json.dumps(report.to_json()) if as_json else report.summary())
    if report.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command("fuse-train")
def fuse_train(
    task: Annotated[str, typer.Option(help="gesture or emotion.")],
    head: Annotated[str | None, typer.Option(help="See `mgcli heads`, or package.module:Class.")] = None,
    modalities: Annotated[str | None, typer.Option(help="Such as video,pose; default the task's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings: with seed 0, 1, ...")] = 3,
    baselines: Annotated[bool, typer.Option("--baselines", help="Train every baseline too, and compare.")] = False,
    features: Annotated[
        list[str] | None,
        typer.Option(help="MODALITY=FINGERPRINT (or backbone), where a modality has several feature sets."),
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, any setting of the training or head.")] = None,
    allow_unseen_classes: Annotated[
        bool, typer.Option("--allow-unseen-classes", help="Accept classes that have no training clip.")
    ] = False,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    runs: RunsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a fusion head on the cache, with several seeds, and score it on the test clips."""
    from mgcli.fuse import compare_heads, make_config, results_table, train_head

    project = _project(cache=cache, runs=runs)
    opened = _open_cache(project.cache)
    settings = _key_values(option, "--option")
    if allow_unseen_classes:
        settings["allow_unseen_classes"] = True
    arguments: dict[str, Any] = {
        "head": head,
        "modalities": [name.strip() for name in modalities.split(",")] if modalities else None,
        "seeds": seeds,
        "config": make_config(settings),
        "features": {key: str(value) for key, value in _key_values(features, "--features").items()},
        "clips": _training_clips(opened, project, clips, protocol),
        "runs": project.runs,
        "notes": ["synthetic data"] if project.dataset == "demo" else [],
    }
    if baselines:
        compared = compare_heads(opened, task, **arguments)
        run, text = compared[-1], results_table(compared)
        result = run.to_json() | {"baselines": [each.to_json() for each in compared[:-1]]}
    else:
        run = train_head(opened, task, **arguments)
        result, text = run.to_json(), run.summary()
    typer.echo(json.dumps(result) if as_json else text)


@app.command()
def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    clips: ClipsOption = None,
    cache: CacheOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run again on the clips of a split, from its own checkpoints."""
    from mgcli.fuse import evaluate_run

    project = _project(cache=cache)
    opened = _open_cache(project.cache)
    evaluation = evaluate_run(run, opened, split=split, clips=_training_clips(opened, project, clips, protocol))
    typer.echo(json.dumps(evaluation.to_json()) if as_json else evaluation.summary())


@app.command()
def predict(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="CSV file to write; default stdout.")] = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    protocol: ProtocolOption = None,
) -> None:
    """Predict the clips of a table that have tokens in the cache, labelled or not, as CSV."""
    from mgcli.cache import committed_file, writing
    from mgcli.fuse import predict_run

    project = _project(cache=cache)
    opened = _open_cache(project.cache)
    predictions = predict_run(run, opened, clips=_training_clips(opened, project, clips, protocol))
    if out is None:
        typer.echo(predictions.to_csv(index=False, float_format="%.6g"), nl=False)
        return
    with writing(out), committed_file(out) as temporary:
        predictions.to_csv(temporary, index=False, float_format="%.6g")
    _say(f"wrote {len(predictions)} predictions to {out}")


@app.command()
def backbones(as_json: JsonOption = False) -> None:
    """List the frozen backbones: token layouts, weights, licence, and whether the weights are here."""
    from mgcli.extract import describe_backbones

    _print_rows(describe_backbones(_project().weights), as_json)


@app.command()
def heads(as_json: JsonOption = False) -> None:
    """List the fusion heads and the baselines."""
    from mgcli.fuse import describe_heads

    _print_rows(describe_heads(), as_json)


@app.command()
def datasets(as_json: JsonOption = False) -> None:
    """List the data sets that `init` and `extract` know."""
    from mgcli.extract import describe_datasets

    _print_rows(describe_datasets(), as_json)


@cache_app.command("ls")
def cache_ls(cache: CacheOption = None) -> None:
    """List the feature sets, one line each."""
    for features in _open_cache(cache).feature_sets():
        typer.echo(f"{features.name}  {features.describe()}")


@cache_app.command("info")
def cache_info(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """Show what the cache holds: clips, tokens, types, sizes."""
    info = _open_cache(cache).info()
    typer.echo(json.dumps(info) if as_json else _info_text(info))


@cache_app.command("verify")
def cache_verify(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """Check every part: readable, shapes, offsets, ids and all checksums."""
    from mgcli.cache import verify_cache

    report = verify_cache(_open_cache(cache))
    typer.echo(json.dumps(report.to_json()) if as_json else report.summary())
    if not report.ok:
        raise typer.Exit(EXIT_FAULT)


@cache_app.command("import")
def cache_import(
    file: Annotated[Path, typer.Argument(help=".npz or .h5 keyed by clip id, arrays (N, D).")],
    modality: Annotated[str, typer.Option(help="Modality under which the features are stored.")],
    backbone: Annotated[str, typer.Option(help="What made them, for the tables.")],
    clips: ClipsOption = None,
    cache: CacheOption = None,
    cache_format: FormatOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store features that another program made, so that stage two works without stage one."""
    from tqdm import tqdm

    from mgcli.cache import import_features

    project = _project(clips=clips, cache=cache, format=cache_format, protocol=protocol)
    table = _read_clips(project)
    report = import_features(
        _make_cache(project),
        file,
        modality,
        backbone,
        table,
        protocol=project.protocol,
        progress=lambda ids: iter(tqdm(ids, unit="clip", disable=not sys.stderr.isatty())),
    )
    typer.echo(json.dumps(report.to_json()) if as_json else report.summary())
    if report.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


@cache_app.command("rm")
def cache_rm(
    name: Annotated[str, typer.Argument(help="Folder name or start of the fingerprint of a feature set.")],
    cache: CacheOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete one feature set."""
    from mgcli.cache import remove_feature_set

    opened = _open_cache(cache)
    if not yes:
        typer.confirm(f"delete feature set {name} of {opened.path}?", abort=True, err=True)
    typer.echo(f"deleted {remove_feature_set(opened, name)}")


def _project(**given: Any) -> Project:
    """The project file's settings, with the flags that were given in their place."""
    from mgcli.cache import load_project

    project = load_project()
    return replace(project, **{key: value for key, value in given.items() if value is not None})


def _read_clips(project: Project) -> pd.DataFrame:
    """The clip table of the project's data set."""
    from mgcli.extract import load_dataset

    if project.dataset == "table":
        return load_dataset("table", project.clips or project.root)
    return load_dataset(project.dataset, project.root)


def _extract_settings(
    project: Project, modality: str, sampling: str | None, option: list[str] | None
) -> dict[str, Any]:
    """What mgcli.toml says of a modality, with the flags' options in place: backbone, tokens, weights, options."""
    settings: dict[str, Any] = {"options": dict(project.extract.get(modality, {}))}
    for name in ("backbone", "tokens", "weights"):
        if name in settings["options"]:
            settings[name] = settings["options"].pop(name)
    if sampling is not None:
        settings["options"]["sampling"] = sampling
    settings["options"] |= _key_values(option, "--option")
    return settings


def _key_values(given: list[str] | None, flag: str) -> dict[str, Any]:
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


def _pick(settings: dict[str, dict[str, Any]], name: str) -> dict[str, str]:
    return {modality: values[name] for modality, values in settings.items() if name in values}


def _training_clips(cache: FeatureCache, project: Project, clips: Path | None, protocol: str | None) -> pd.DataFrame:
    """The clip table of a flag, or the newest that the cache keeps of the project's protocol."""
    from mgcli.cache import read_clip_table

    if clips is not None:
        return read_clip_table(clips)
    return cache.read_clips(protocol or (project.protocol if project.file else None))


def _open_cache(path: Path | None) -> FeatureCache:
    from mgcli.cache import open_cache

    return open_cache(path or _project().cache)


def _make_cache(project: Project) -> FeatureCache:
    from mgcli.cache import open_cache

    return open_cache(project.cache, create=True, format=project.format)


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Dictionaries with the same keys, as a table or as JSON."""
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(rows[0]))]
    for row in table:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(message: str) -> None:
    """A line for the person who waits; stdout is for results."""
    typer.echo(message, err=True)


def _info_text(info: dict[str, Any]) -> str:
    """`cache info` for people."""
    lines = [f"{info['path']} (format version {info['format_version']})"]
    for each in info["feature_sets"]:
        lines.append(
            f"  {each['modality']:<8} {each['backbone']} {each['fingerprint']}: {each['clips']} clips, "
            f"{each['tokens']} tokens of {each['dim']} {each['dtype']} ({each['layout']}), "
            f"{each['bytes'] / 1e6:.1f} MB in {each['parts']} {each['format']} part(s), weights {each['weights']}"
        )
    return "\n".join(lines if info["feature_sets"] else [*lines, "  empty"])


if __name__ == "__main__":
    main()
