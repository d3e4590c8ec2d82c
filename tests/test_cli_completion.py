"""A shell completes commands, options and names; quickly, so without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from mgcli.cli import main
sys.argv = ["mgcli"]
try: main()
finally: assert not {"torch", "h5py", "zarr"} & set(sys.modules)
"""


def completed(typed: str, cwd: Path) -> list[str]:
    """What bash offers for the last word."""
    words = typed.split(" ")
    asked = {"_MGCLI_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=cwd, env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mgcli ext", ["extract"]),
        ("mgcli fuse-train --basel", ["--baselines"]),
        ("mgcli fuse-train --task ", ["gesture", "emotion"]),
        ("mgcli ablate --head inter", ["inter_fusion"]),
        ("mgcli extract --modality v", ["video"]),
        ("mgcli extract --backbone swin", ["swinface"]),
        ("mgcli init sm", ["smg"]),
        ("mgcli data check --protocol miga-track1", ["miga-track1", "miga-track1-subject-val"]),
        ("mgcli cache export 3f", ["3f9c21ab"]),
        ("mgcli cache rm video", ["video--mvit_v2_s--3f9c21ab"]),
        ("mgcli fuse-train --modalities pose,", ["pose,video"]),
    ],
)
def test_names_are_completed(tmp_path: Path, typed: str, offered: list[str]) -> None:
    for name in ("video--mvit_v2_s--3f9c21ab", "pose--joints--00c0ffee", "clips"):
        (tmp_path / "features" / name).mkdir(parents=True)
    assert completed(typed, tmp_path) == offered


def test_a_project_file_with_a_fault_offers_nothing(tmp_path: Path) -> None:
    (tmp_path / "mgcli.toml").write_text("[cahce]\n")
    assert completed("mgcli cache rm ", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed(tmp_path: Path, shell: str) -> None:
    code = "import sys; from mgcli.cli import main; sys.argv = ['mgcli', '--show-completion', sys.argv[1]]; main()"
    asked = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, shell], env=asked, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_MGCLI_COMPLETE=complete_{shell}" in done.stdout
