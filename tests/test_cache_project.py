"""The project file: written, found from a subfolder, refused when it holds what nobody reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcli.cache import Project, ProjectError, load_project, write_project


def test_a_written_project_is_read_back_from_any_subfolder(tmp_path: Path) -> None:
    options = {"video": {"tokens": "full"}}
    project = Project(clips=Path('my "clips".csv'), cache=Path("fèatures"), format="zarr", extract=options)
    write_project(project, tmp_path)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    read = load_project(inner)
    assert read.clips == tmp_path / 'my "clips".csv'
    assert read.cache == tmp_path / "fèatures"
    assert (read.format, read.dataset, read.extract, read.file) == ("zarr", "table", options, tmp_path / "mgcli.toml")


def test_without_a_project_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_project(tmp_path) == Project()


def test_an_existing_project_file_is_kept(tmp_path: Path) -> None:
    write_project(Project(), tmp_path)
    with pytest.raises(ProjectError, match="exists; edit it, or replace it with --overwrite"):
        write_project(Project(), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cache\n", "not valid TOML"),
        ("[cahce]\n", r"unknown section \[cahce\]; did you mean 'cache'"),
        ("[cache]\nformt = 'zarr'\n", r"unknown key 'formt' in \[cache\]; did you mean 'format'"),
        ("cache = 1\n", "cache must be a section"),
        ("[data]\nroot = 5", r"root in \[data\] must be text in quotes, not 5"),
        ("[data]\noptions = 'seed=1'", r"options in \[data\] must be a section, \[data.options\]"),
        ("[extract]\nvideo = 'random:0'", r"video in \[extract\] must be a section, \[extract.video\]"),
    ],
)
def test_a_bad_project_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mgcli.toml").write_text(text)
    with pytest.raises(ProjectError, match=message):
        load_project(tmp_path)
