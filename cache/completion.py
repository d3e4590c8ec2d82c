"""Words that a shell completes: names of tasks, protocols, modalities and feature sets. A fault offers nothing."""

from __future__ import annotations

from contextlib import suppress


def task_names() -> list[str]:
    """gesture and emotion."""
    from mgcli.cache.clips import TASKS

    return list(TASKS)


def protocol_names() -> list[str]:
    """The published ones."""
    from mgcli.cache.protocols import PROTOCOLS

    return list(PROTOCOLS)


def feature_set_names() -> list[str]:
    """Folder names and fingerprints of the feature sets in the project's cache."""
    names = _set_folders()
    return [*names, *(name.rpartition("--")[2] for name in names)]


def modality_lists(incomplete: str) -> list[str]:
    """The modalities in the project's cache, also behind those that were typed with commas."""
    begun, comma, _ = incomplete.rpartition(",")
    typed = begun.split(",")
    there = dict.fromkeys(name.partition("--")[0] for name in _set_folders())
    return [f"{begun}{comma}{name}" for name in there if name not in typed]


def _set_folders() -> list[str]:
    from mgcli.cache.errors import MgcliError
    from mgcli.cache.place import children
    from mgcli.cache.project import load_project

    with suppress(MgcliError, OSError):
        found = (each.name for each in children(load_project().cache))
        return [name for name in found if name.count("--") == 2 and not name.startswith(".")]
    return []
