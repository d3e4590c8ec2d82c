"""What runs are called beside each other: by what tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mgcli.fuse.run import Run
from mgcli.fuse.settings import NOT_DECIDING, TrainConfig

_NOT_A_CHOICE = {"fold", "split_seed", "device", "allow_leakage", "allow_unseen_classes", *NOT_DECIDING}


def run_names(runs: Sequence[Run]) -> list[str]:
    """The shortest name of each run that no other has: its head, with modalities, with options, or its folder."""
    varied = varied_options(runs)
    choices = []
    for place, run in enumerate(runs):
        modalities = "+".join(run.modalities)
        options = ", ".join(f"{name}={values[place]}" for name, values in varied.items())
        with_options = [f"{run.label} ({options})", f"{run.label} ({modalities}, {options})"]
        choices.append([run.label, f"{run.label} ({modalities})", *with_options, run.name, str(run.path)])
    names = []
    for own in choices:
        others = [each for each in choices if each is not own]
        names.append(next((name for i, name in enumerate(own) if all(name != each[i] for each in others)), own[-1]))
    return names


def varied_options(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings of training and head that are not the same in all runs: name -> its value in each."""
    usual = _options(asdict(TrainConfig()))  # what a run that is older than a setting was trained with
    options = [usual | _options(own) if (own := run.config.get("config", {})) else {} for run in runs]
    names = dict.fromkeys(name for each in options for name in each)
    values = {name: [str(each.get(name, "-")) or "''" for each in options] for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def _options(config: dict[str, Any]) -> dict[str, Any]:
    training = {key: value for key, value in config.items() if not isinstance(value, dict)}
    return {key: value for key, value in {**training, **config.get("head", {})}.items() if key not in _NOT_A_CHOICE}
