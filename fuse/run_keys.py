"""What the JSON files of a run folder must hold for its readers: a file edited by hand is told from a whole one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mgcli.fuse.task import TASKS

Keys = Mapping[tuple[str, ...], type]  # the way to a key -> what it holds

_CONFIG: Keys = {
    ("created",): str,
    ("task",): str,
    ("head",): str,
    ("label",): str,
    ("features",): dict,
    ("classes",): list,
    ("seeds",): list,
    ("clips",): dict,
    ("clips", "counts"): dict,
    ("clips", "drawn_val_subjects"): list,
    ("packages",): dict,
    ("warnings",): list,
}
_SETTINGS: Keys = {("config", "max_tokens"): int, ("config", "head"): dict}  # which an ensemble has not
_FEATURES = {"feature_set": str, "fingerprint": str, "backbone": str, "weights": str, "dim": int}  # of a modality
_COUNTS = ("clips", "subjects")  # of a split
RESULT_KEYS: Keys = {("metrics",): dict, ("intervals",): dict}
_KINDS = {str: "text", dict: "an object, {...}", list: "a list, [...]", int: "a whole number"}


def config_fault(config: dict[str, Any]) -> str:
    """What is wrong with a `config.json`, in a few words; empty where nothing is."""
    fault = key_fault(config, _CONFIG if "sources" in config else {**_CONFIG, **_SETTINGS})
    if fault:
        return fault
    if config["task"] not in TASKS:
        return f"its 'task' is {config['task']!r}, not {' or '.join(TASKS)}"
    inner: dict[tuple[str, ...], type] = {
        ("features", name, key): kind for name in config["features"] for key, kind in _FEATURES.items()
    }
    inner |= {("clips", "counts", split, key): int for split in config["clips"]["counts"] for key in _COUNTS}
    inner |= {("class_groups", name): list for name in config.get("class_groups", {})}
    return key_fault(config, inner) or _list_fault(config)


def _list_fault(config: dict[str, Any]) -> str:
    """What is wrong inside its lists, and with its one number."""
    classes, seeds = config["classes"], config["seeds"]
    if not classes or not all(isinstance(each, str) for each in classes) or len(set(classes)) < len(classes):
        return "its 'classes' must be different texts"
    if not seeds or not all(isinstance(each, int) and not isinstance(each, bool) for each in seeds):
        return "its 'seeds' must be whole numbers"
    for name, listed in config.get("class_groups", {}).items():
        if not set(map(str, listed)) <= set(classes):
            return f"its 'class_groups.{name}' has a class that is not among its 'classes'"
    if config.get("config", {}).get("max_tokens", 1) < 1:
        return "its 'config.max_tokens' must be 1 or more"
    return ""


def key_fault(content: dict[str, Any], keys: Keys) -> str:
    """The first of the keys that is not there, or of another kind, in a few words; empty where there is none."""
    for way, kind in keys.items():
        value: Any = content
        shown = ".".join(way)
        for name in way:
            if not isinstance(value, dict) or name not in value:
                return f"it has no key {shown!r}"
            value = value[name]
        if not isinstance(value, kind):
            return f"its {shown!r} must be {_KINDS[kind]}, not {value!r:.40}"
    return ""
