"""The commands of stage two: train heads, score them, predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mgcli.cache.completion import modality_lists, task_names
from mgcli.cache.console import (
    AllowLeakageOption,
    CacheOption,
    ClipsOption,
    JsonOption,
    ProtocolOption,
    key_values,
    open_project_cache,
    print_result,
    print_rows,
    project_with,
    say,
    stops_with,
)
from mgcli.fuse.completion import head_names

if TYPE_CHECKING:
    import pandas as pd

    from mgcli.cache import FeatureCache, Project

app = typer.Typer()

RunsOption = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default from mgcli.toml.")]
AllowUnseenOption = Annotated[
    bool, typer.Option("--allow-unseen-classes", help="Accept classes that have no training clip.")
]
ReplicasOption = Annotated[
    str,
    typer.Option(help="Train seeds and runs of one architecture together: on, off, or auto: on a GPU. Same results."),
]
RunArgument = Annotated[Path, typer.Argument(help="A run's folder.")]
CalibratedOption = Annotated[
    bool,
    typer.Option(
        "--calibrated", help="Apply the temperature, and with two classes the threshold, fitted on validation clips."
    ),
]
PriorOption = Annotated[
    float | None,
    typer.Option(help="With --calibrated and two classes: share of the second where answers count; default 0.5."),
]


@app.command("fuse-train")
@stops_with("the unfinished run leaves nothing, finished ones stay; run the same command again")
def fuse_train(
    task: Annotated[str, typer.Option(help="gesture or emotion.", autocompletion=task_names)],
    head: Annotated[
        str | None, typer.Option(help="See `mgcli heads`, or package.module:Class.", autocompletion=head_names)
    ] = None,
    modalities: Annotated[
        str | None, typer.Option(help="Such as video,pose; default the task's.", autocompletion=modality_lists)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings: with seed 0, 1, ...")] = 5,
    baselines: Annotated[bool, typer.Option("--baselines", help="Train every baseline too, and compare.")] = False,
    features: Annotated[
        list[str] | None,
        typer.Option(help="MODALITY=FINGERPRINT (or backbone), where a modality has several feature sets."),
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, any setting of the training or head.")] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML file of settings, as `mgcli tune` writes it.")] = None,
    track: Annotated[
        str | None, typer.Option(help="tensorboard: watch each epoch (pip install 'mgcli[tracking]').")
    ] = None,
    replicas: ReplicasOption = "auto",
    allow_unseen_classes: AllowUnseenOption = False,
    allow_leakage: AllowLeakageOption = False,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    runs: RunsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a fusion head on the cache, with several seeds, and score it on the test clips."""
    from mgcli.fuse import compare_heads, compare_runs, make_config, results_table, settings_of, train_head

    project = project_with(cache=cache, runs=runs)
    opened = open_project_cache(project.cache)
    given = settings_of(settings) if settings else {}
    head, modalities = head or given.get("head"), modalities or given.get("modalities")
    options = given.get("options", {}) | key_values(option, "--option")
    if allow_unseen_classes:
        options["allow_unseen_classes"] = True
    if allow_leakage:
        options["allow_leakage"] = True
    arguments: dict[str, Any] = {
        "head": head,
        "modalities": modalities or None,
        "seeds": seeds,
        "config": make_config(options),
        "features": {key: str(value) for key, value in key_values(features, "--features").items()},
        "clips": training_clips(opened, project, clips, protocol),
        "runs": project.runs,
        "track": track,
        "replicas": replicas,
        "notes": ["synthetic data"] if project.dataset == "demo" else [],
    }
    if baselines:
        compared = compare_heads(opened, task, **arguments)
        paired = compare_runs(compared[-1], compared[:-1])
        result = compared[-1].to_json() | {"baselines": [each.to_json() for each in compared[:-1]]}
        kept = f"runs in {project.runs}: {', '.join(each.name for each in compared)}"
        print_result(result | paired.to_json(), f"{results_table(compared)}\n\n{paired.text()}\n{kept}", as_json)
    else:
        run = train_head(opened, task, **arguments)
        print_result(run.to_json(), run.summary(), as_json)


@app.command()
def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    allow_leakage: AllowLeakageOption = False,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run again on the clips of a split, from its own checkpoints."""
    from mgcli.fuse import evaluate_run

    project = project_with(cache=cache)
    opened = open_project_cache(project.cache)
    table = training_clips(opened, project, clips, protocol)
    evaluation = evaluate_run(run, opened, split=split, clips=table, allow_leakage=allow_leakage)
    print_result(evaluation.to_json(), evaluation.summary(), as_json)


@app.command()
def predict(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="CSV file to write; default stdout.")] = None,
    calibrated: CalibratedOption = False,
    prior: PriorOption = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    protocol: ProtocolOption = None,
) -> None:
    """Predict the clips of a table that have tokens in the cache, labelled or not, as CSV."""
    from mgcli.cache import committed_file, writing
    from mgcli.fuse import Run, answered, predict_run, threshold_for

    _check_prior(prior, calibrated)
    if out is not None and out.is_dir():
        raise typer.BadParameter(f"--out {out} is a folder; give a file, such as {out / 'predictions.csv'}")
    project = project_with(cache=cache)
    opened = open_project_cache(project.cache)
    loaded = Run.load(run)
    table = training_clips(opened, project, clips, protocol)
    predictions = predict_run(loaded, opened, clips=table, calibrated=calibrated)
    if calibrated:
        predictions = answered(predictions, loaded.config["classes"], threshold_for([loaded], prior=prior))
    if out is None:
        typer.echo(predictions.to_csv(index=False, float_format="%.6g"), nl=False)
        return
    with writing(out), committed_file(out) as temporary:
        predictions.to_csv(temporary, index=False, float_format="%.6g")
    say(f"wrote {len(predictions)} predictions to {out}")


@app.command()
def submit(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run's or an ensemble's folder; several are averaged.")
    ],
    form: Annotated[str, typer.Option(help="miga2023-track1, miga2025-track1 or miga2025-track3.")],
    out: Annotated[Path, typer.Option(help="File to write: .zip as the challenge takes it, or the bare .csv.")],
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Of each run in an average; repeat, in the order of the runs."),
    ] = None,
    probability: Annotated[
        bool, typer.Option("--probability", help="Track 3: the probability of winning in place of 0 or 1.")
    ] = False,
    calibrated: CalibratedOption = False,
    prior: PriorOption = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a MiGA challenge file: a prediction for every test clip of the runs' protocol, or what is missing."""
    from mgcli.fuse import submit_runs

    _check_prior(prior, calibrated)
    project = project_with(cache=cache)
    opened = open_project_cache(project.cache)
    table = training_clips(opened, project, clips, protocol) if clips or protocol else None
    submission = submit_runs(
        runs,
        opened,
        out,
        form=form,
        weights=weight or None,
        probability=probability,
        calibrated=calibrated,
        prior=prior,
        clips=table,
    )
    print_result(submission.to_json(), submission.summary(), as_json)


@app.command()
def heads(as_json: JsonOption = False) -> None:
    """List the fusion heads and the baselines."""
    from mgcli.fuse import describe_heads

    print_rows(describe_heads(), as_json)


def training_clips(cache: FeatureCache, project: Project, clips: Path | None, protocol: str | None) -> pd.DataFrame:
    """The clip table of a flag, or the newest that the cache keeps of the project's protocol.

    A file follows the protocol that --protocol names, and none without it.
    """
    from mgcli.cache import read_clip_table

    if clips is not None:
        table = read_clip_table(clips)
        table.attrs["protocol"] = protocol
        return table
    return cache.read_clips(protocol or project.protocol or None)


def _check_prior(prior: float | None, calibrated: bool) -> None:
    if prior is not None and not calibrated:
        raise typer.BadParameter("--prior is for the threshold of --calibrated; give both")
