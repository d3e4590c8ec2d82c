"""The project file `mgcli.toml`: where the data, the cache, the runs and the weights of a project are."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mgcli.cache.durable import committed_file, writing
from mgcli.cache.errors import ProjectError
from mgcli.cache.place import as_place, is_remote

PROJECT_FILE = "mgcli.toml"
_KNOWN_KEYS: dict[str, set[str] | None] = {
    "data": {"dataset", "root", "clips", "protocol", "options"},
    "cache": {"path", "format"},
    "runs": {"path"},
    "weights": {"path"},
    "extract": None,  # one table per modality: defaults of `mgcli extract`
}


@dataclass(frozen=True, kw_only=True)
class Project:
    """What the project file says; paths are absolute or start at the current folder."""

    dataset: str = "table"
    root: Path = Path()  # of the data set
    clips: Path | None = None  # clip table, for the data set `table`
    protocol: str = ""  # empty: the data set's usual one
    options: dict[str, Any] = field(default_factory=dict)  # of the data set
    cache: Path = Path("features")
    format: str = "hdf5"  # of the cache: hdf5 or zarr
    runs: Path = Path("runs")
    weights: Path = Path("weights")
    extract: dict[str, dict[str, Any]] = field(default_factory=dict)  # modality -> options
    file: Path | None = None  # the project file; None where there is none


def load_project(folder: Path | None = None) -> Project:
    """The project of a folder or of the nearest folder above it; the defaults where there is no project file.

    Raises:
        ProjectError: the file is not TOML, or has a key that nobody reads.
    """
    start = (folder or Path.cwd()).resolve()
    for each in (start, *start.parents):
        if (each / PROJECT_FILE).is_file():
            return _read_project(each / PROJECT_FILE)
    return Project()


def write_project(project: Project, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the project file of a folder.

    Raises:
        ProjectError: there is one already.
    """
    path = folder / PROJECT_FILE
    if path.exists() and not overwrite:
        raise ProjectError(f"{path} exists; edit it, or replace it with --overwrite")
    clips = f"clips = {_toml(project.clips)}\n" if project.clips else ""
    options = f"\n[data.options]\n{_toml_lines(project.options)}" if project.options else ""
    cache = str(project.cache) if is_remote(project.cache) else project.cache
    text = (
        "# Project file of mgcli. Paths start at this folder; flags of a command override what stands here.\n\n"
        f"[data]\ndataset = {_toml(project.dataset)}\nroot = {_toml(project.root)}\n{clips}"
        f"protocol = {_toml(project.protocol)}\n{options}\n"
        f"[cache]\npath = {_toml(cache)}\nformat = {_toml(project.format)}\n\n"
        f"[runs]\npath = {_toml(project.runs)}\n\n[weights]\npath = {_toml(project.weights)}\n"
    )
    for modality, of_it in project.extract.items():
        text += f"\n[extract.{modality}]\n{_toml_lines(of_it)}"
    with writing(path), committed_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _read_project(path: Path) -> Project:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path} is not valid TOML: {error}") from None
    for section, values in content.items():
        if section not in _KNOWN_KEYS:
            raise ProjectError(f"{path}: unknown section [{section}]{_near(section, _KNOWN_KEYS)}")
        known = _KNOWN_KEYS[section]
        if not isinstance(values, dict):
            raise ProjectError(f"{path}: {section} must be a section, [{section}]")
        for key in values:
            if known is not None and key not in known:
                raise ProjectError(f"{path}: unknown key {key!r} in [{section}]{_near(key, known)}")
            is_table = known is None or key == "options"
            if not isinstance(values[key], dict if is_table else str):
                kind = f"a section, [{section}.{key}]" if is_table else "text in quotes"
                raise ProjectError(f"{path}: {key} in [{section}] must be {kind}, not {values[key]!r}")
    data, cache = content.get("data", {}), content.get("cache", {})
    base = path.parent
    return Project(
        dataset=data.get("dataset", "table"),
        root=base / data.get("root", "."),
        clips=base / data["clips"] if "clips" in data else None,
        protocol=data.get("protocol", ""),
        options=data.get("options", {}),
        cache=_place(base, cache.get("path", "features")),
        format=cache.get("format", "hdf5"),
        runs=base / content.get("runs", {}).get("path", "runs"),
        weights=base / content.get("weights", {}).get("path", "weights"),
        extract=content.get("extract", {}),
        file=path,
    )


def _place(base: Path, path: str) -> Path:
    """A folder that starts at the project's, or a remote place as it stands."""
    return as_place(path) if "://" in path else base / path


def _near(word: str, known: Any) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


def _toml_lines(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: Any) -> str:
    """A TOML value: JSON's strings, numbers and booleans are TOML's too."""
    return json.dumps(value.as_posix() if isinstance(value, Path) else value, ensure_ascii=False)
