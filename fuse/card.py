"""The model card of a run: `card.md` in its folder, written from what the run itself recorded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mgcli.fuse.calibration import calibration_text
from mgcli.fuse.run import Run, scores_table
from mgcli.fuse.settings import TrainConfig

CARD_FILE = "card.md"
UNKNOWN_LICENCE = "unknown"
_MOST_CLASSES = 40  # that are named


def write_card(folder: Path, run: Run) -> None:
    """Write the card of a run into the folder that will be the run's."""
    (folder / CARD_FILE).write_text(model_card(run), encoding="utf-8")


def model_card(run: Run) -> str:
    """Markdown for people: what it is, on what data, how good, with what in it, for what not, and how to use it."""
    sections = {
        "What it is": _what(run),
        "Data": _data(run),
        "Scores": _scores(run),
        "Warnings": [f"* {text}" for text in run.config["warnings"]] or ["None."],
        "What it was made from": _sources(run),
        "Limits": _limits(run),
        "How to use it": _use(run),
    }
    text = [f"# {run.name}"]
    for title, lines in sections.items():
        text += ["", f"## {title}", "", *lines]
    return "\n".join(text) + "\n"


def _what(run: Run) -> list[str]:
    config = run.config
    made = f"made by mgcli {config['packages'].get('mgcli', '(unknown version)')} at {config['created']}"
    if run.is_ensemble:
        shares = [
            f"* {each['weight']:.3g} x {each['head'] or 'a score file'}: `{each['source']}`"
            for each in config["sources"]
        ]
        fitted = "fitted on validation clips" if config["weights_fitted_on"] else "given"
        return [f"An ensemble for the task {config['task']}, {made}; its weights were {fitted}:", "", *shares]
    settings = _changed(config["config"])
    return [
        f"The head `{run.label}` for the task {config['task']}, {made}. It reads tokens of "
        f"{', '.join(run.modalities)} that frozen backbones made, and was trained {len(config['seeds'])} time(s), with "
        f"seed {', '.join(map(str, config['seeds']))}; its answer is the mean of all. "
        f"Settings that are not the usual ones: {', '.join(settings) or 'none'}.",
    ]


def _data(run: Run) -> list[str]:
    clips, classes = run.config["clips"], run.config["classes"]
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    named = ", ".join(classes[:_MOST_CLASSES]) + more
    lines = [
        f"Protocol: {run.protocol or 'own clip table'}. {len(classes)} classes: {named}.",
        "",
        *_table(
            ["split", "clips", "subjects"],
            [[split, str(n["clips"]), str(n["subjects"])] for split, n in clips["counts"].items()],
        ),
    ]
    drawn = clips["drawn_val_subjects"]
    if drawn:
        lines += ["", f"{len(drawn)} subject(s) of the validation split were drawn from the training subjects."]
    return lines


def _scores(run: Run) -> list[str]:
    rows = [(run, split, found, run.intervals[split]) for split, found in run.metrics.items() if found]
    if not rows:
        return ["It was not scored: its clips have no labels."]
    judged = [split for split in run.calibration if split in run.metrics]
    calibration = [calibration_text(run.calibration, run.config["classes"], split) for split in judged]
    return ["```", scores_table(rows, run.config["task"]), *calibration, "```"]


def _sources(run: Run) -> list[str]:
    rows = []
    for modality, about in run.config["features"].items():
        sha256 = f" (SHA-256 {about['weights_sha256'][:12]}...)" if about["weights_sha256"] else ""
        rows.append(
            [
                modality,
                about["backbone"],
                about["tokens"],
                about["weights"] + sha256,
                about.get("licence", UNKNOWN_LICENCE) or "-",
                f"`{about['feature_set']}`",
            ]
        )
    return _table(["modality", "backbone", "tokens", "weights", "their licence", "feature set"], rows)


def _limits(run: Run) -> list[str]:
    counts = run.config["clips"]["counts"]
    of = ", ".join(f"{n['clips']} {split} clips of {n['subjects']} subjects" for split, n in counts.items())
    lines = [
        f"* It was trained and scored on {of}; what it does on other people, cameras or situations is not known.",
        "* It answers with one of the classes above, whatever it is shown.",
        "* It reads tokens of the feature sets above, and no others: clips must be extracted with the same settings.",
    ]
    if not run.metrics.get("test"):
        lines.append("* It has no test scores.")
    random = [name for name, text in run.weights.items() if text.startswith("random")]
    if random:
        lines.append(f"* The backbone of {', '.join(random)} has random weights: it is for trying things out.")
    return lines


def _use(run: Run) -> list[str]:
    if run.is_ensemble:
        return ["```", f"mgcli submit {run.path} --form FORM --out FILE.zip", "```"]
    return [
        "In the project's folder, with the clips' tokens in the cache (`mgcli extract`):",
        "",
        "```",
        f"mgcli predict {run.path} --out predictions.csv",
        f"mgcli evaluate {run.path}",
        f"mgcli reproduce {run.path}",
        "```",
        "",
        "```python",
        "from mgcli.cache import open_cache",
        "from mgcli.fuse import predict_run",
        "",
        f'predictions = predict_run("{run.path.as_posix()}", open_cache("features"))',
        "```",
    ]


def _changed(config: dict[str, Any]) -> list[str]:
    """Settings that differ from the usual ones, as `--option` takes them."""
    usual = asdict(TrainConfig())
    changed = {key: value for key, value in config.items() if key != "head" and value != usual.get(key)}
    changed |= {key: value for key, value in config["head"].items() if value != usual["head"].get(key)}
    return [f"`{key}={value}`" for key, value in changed.items()]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; a bar in a cell would end it."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
