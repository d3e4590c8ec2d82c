"""The file of an ablation grid, and of the settings of one run.

A grid file, in TOML; every key may hold one value or a list, and every key may be left out:

    head = ["cross_modal_token_fusion", "concat"]
    modalities = ["video,pose", "video"]
    seeds = 5                # how many, or a list of which
    folds = 5                # subject-disjoint, over the training subjects; 0: one validation split

    [options]                # any setting of the training or the head
    learning_rate = [3e-4, 1e-3]

Single values alone, without seeds and folds, make a settings file: `tune` writes it, `fuse-train --settings` reads it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mgcli.cache import MgcliError

EXAMPLES = {"head": "concat", "modalities": "video,pose"}
_KEYS = ("head", "modalities", "seeds", "folds", "options")


class GridError(MgcliError):
    """A grid that cannot be read, or asks for what does not exist."""


def read_grid(path: Path) -> dict[str, Any]:
    """The content of a grid or settings file, its keys checked.

    Raises:
        GridError: it cannot be read, or has a key that nobody reads.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GridError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GridError(f"{path} is not valid TOML: {error}") from None
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise GridError(f"{path}: unknown key {key!r}; {hint}All: {', '.join(_KEYS)}")
    if not isinstance(content.get("options", {}), dict):
        raise GridError(f"{path}: options must be a section, [options]")
    return content


def settings_of(path: Path) -> dict[str, Any]:
    """A settings file: a grid of single values, without seeds and folds.

    Raises:
        GridError: it cannot be read, or a key has several values.
    """
    content = read_grid(path)
    for name in ("seeds", "folds"):
        if name in content:
            raise GridError(f"{path}: {name} is no setting of a head; give --{name}, or put it into a grid file")
    refuse_folds(content.get("options", {}), f"{path}: ")
    for name, value in {**content, **content.get("options", {})}.items():
        if isinstance(value, list):
            raise GridError(f"{path}: {name} has several values; that is a grid, for mgcli ablate --grid {path}")
    for name in ("head", "modalities"):
        if not isinstance(content.get(name, ""), str):
            raise GridError(f"{path}: {name} is {content[name]!r}; it must be text, such as {EXAMPLES[name]!r}")
    return content


def refuse_folds(options: Collection[str], where: str = "") -> None:
    """Folds are asked for once for all runs: as a setting of one they would be passed over.

    Raises:
        GridError: `fold` or `folds` is among the options; the message starts with `where`.
    """
    for name in ("folds", "fold"):
        if name in options:
            raise GridError(
                f"{where}{name} is no option of a grid, a search or a settings file; --folds K of ablate and tune, or "
                "folds = K in a grid file, runs through all of them, and fuse-train --option folds=K --option fold=F "
                "trains one"
            )
