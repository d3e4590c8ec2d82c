"""`mgcli doctor`: each line is ok, a warning or a fault, and says what to do; what is wrong is found out by trying."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tiny_media import make_video
from typer.testing import CliRunner

from mgcli.cache import Check, Project, checks_text, find_project, installation_checks, storage_checks
from mgcli.cache.doctor import check_extra, check_packages, check_python
from mgcli.cache.doctor_project import check_cache, check_room, check_writing
from mgcli.cli import app
from mgcli.extract import extract_checks
from mgcli.extract.doctor import check_data, check_weights, slow_convolutions
from mgcli.extract.doctor_codecs import PICTURES, check_codecs

DAMAGED = bytes(range(200)).hex()


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no weights anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MGCLI_WEIGHTS_DIR", str(tmp_path / "no-weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no-weights"))
    return tmp_path


def test_a_machine_with_nothing_but_the_package_has_no_fault() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    result = json.loads(done.stdout)
    states = {check["name"]: check["state"] for check in result["checks"]}
    assert (done.exit_code, result["ok"]) == (0, True), done.stdout
    assert states["Python"] == states["packages"] == states["torch"] == states["codecs"] == states["cache"] == "ok"
    assert states["project file"] == states["video, context weights"] == "warning"
    assert all(check["do"] for check in result["checks"] if check["state"] != "ok")
    assert [each.name for each in Path().iterdir()] == []  # it looks, and leaves nothing


def test_a_fault_gives_exit_code_1_and_names_the_file() -> None:
    Path("mgcli.toml").write_text("[chache]\npath = 'features'\n")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("fault")]
    assert "unknown section [chache]; did you mean 'cache'?" in line
    assert "-> correct mgcli.toml" in done.stdout


def test_text_has_what_to_do_below_what_is_wrong() -> None:
    checks = [Check(name="a", state="ok", found="fine"), Check(name="bcd", state="fault", found="bad", do="mend it")]
    assert checks_text(checks).splitlines() == [
        "ok       a    fine",
        "fault    bcd  bad",
        "              -> mend it",
    ]


def test_the_extras_are_those_of_the_package() -> None:
    from importlib.metadata import metadata

    named = {f"[{name}]" for name in metadata("mgcli").get_all("Provides-Extra") or []} - {"[dev]"}
    assert {check.name for check in installation_checks() if check.name.startswith("[")} == named


def test_packages_and_python_that_do_not_do() -> None:
    absent, old, here = Requirement("no-such-package-xyz"), Requirement("numpy>=999"), Requirement("numpy")
    assert check_python("3.9.1", ">=3.11") == Check(
        name="Python", state="fault", found="3.9.1; mgcli needs >=3.11", do="python3.11 -m venv .venv, or newer"
    )
    found = check_packages([absent, old, here])
    assert found.state == "fault"
    assert found.do == "pip install 'no-such-package-xyz' 'numpy>=999'"
    assert check_extra("x", [absent]).state == "ok"
    assert check_extra("x", [absent, here]).state == "warning"
    assert check_extra("x", [old, here]).do == "pip install 'mgcli[x]'"


def test_a_codec_that_gives_no_picture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_codecs().state == "ok"
    monkeypatch.setitem(PICTURES, "av1", ("ivf", DAMAGED))
    found = check_codecs()
    assert (found.state, found.found.endswith("; not: av1")) == ("warning", True)
    monkeypatch.setitem(PICTURES, "h264", ("h264", DAMAGED))
    assert check_codecs().state == "fault"


@pytest.mark.parametrize(
    ("section", "state", "message"),
    [
        ("video]\nweights = 'random:0'", "warning", "random:0"),
        ("video]\nsamplin = 'uniform'", "fault", "did you mean 'sampling'?"),
        ("video]\nbackbone = 'mvit_v2'", "fault", "did you mean 'mvit_v2_s'?"),
        ("vidoe]\nweights = 'random:0'", "fault", "did you mean 'video'?"),
        ("video]\nweights = 'empty.pt'", "fault", "empty.pt"),
        ("pose]\nbackbone = 'joints'", "ok", "joints: none"),
    ],
)
def test_settings_of_the_project_file_are_tried(section: str, state: str, message: str) -> None:
    Path("empty.pt").write_bytes(b"")
    Path("mgcli.toml").write_text(f"[extract.{section}\n")
    project, of_file = find_project()
    assert of_file.state == "ok"
    assert any(check.state == state and message in check.found for check in check_weights(project))


def test_the_data_are_read_by_the_project_file(clips_csv: Callable[[str], Path]) -> None:
    clips_csv("clip_id,video\na,v.mp4\n")
    make_video(Path("v.mp4"), num_frames=3)
    found = check_data(Project(clips=Path("clips.csv"), file=Path("mgcli.toml")))
    assert (found.state, found.found) == ("ok", "table, protocol table: 1 clips of 1 videos")
    wrong = check_data(Project(clips=Path("clips.csv"), file=Path("mgcli.toml"), options={"fraction": 1}))
    assert wrong.state == "fault"
    assert "did you mean 'fractions'?" in wrong.found


def test_a_cache_that_is_none_and_a_disk_that_does_not_let_us() -> None:
    Path("file").write_text("")
    assert check_cache(Path("file")).state == "fault"
    fault = check_writing("cache disk", Path("/proc/self"), num_bytes=1, flag="--cache DIR")
    assert (fault.state, fault.do) == ("fault", "choose another with --cache DIR")
    assert check_room(Path("new/folder")).name == "free space"
    assert {check.state for check in storage_checks(Project(cache=Path("file")))} >= {"fault"}


@pytest.mark.parametrize(
    ("version", "cudnn", "slow"),
    [
        ("2.9.0+cu128", 91600, True),
        ("2.9.1", 91002, True),
        ("2.9.1+cu130", 91501, False),
        ("2.9.1", None, True),
        ("2.8.0", 91002, False),
        ("2.10.0", 91002, False),
        ("2.14.1+cu130", 92000, False),
    ],
)
def test_a_torch_that_convolves_slowly_is_told(version: str, cudnn: int | None, slow: bool) -> None:
    assert bool(slow_convolutions(version, cudnn)) == slow


def test_torch_that_cannot_be_loaded_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    torch, codecs = extract_checks(Project())
    assert (torch.name, torch.state, codecs.state) == ("torch", "fault", "ok")
