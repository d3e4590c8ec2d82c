"""iMiGUE and SMG through the command line: from the data set's root to trained heads of both tasks."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from replica_imigue import write_challenge, write_full_release
from replica_smg import write_smg
from typer.testing import CliRunner

from mgcli.cache import load_project, open_cache
from mgcli.cli import app
from mgcli.extract import load_dataset

LAYOUTS: dict[str, Callable[[Path], Path]] = {"challenge": write_challenge, "full": write_full_release}
TINY_POSE = ("--option", "epochs=1", "--option", "num_frames=4", "--option", "min_steps=0")
TINY_HEAD = ("--seeds", 1, "--option", "epochs=3", "--option", "min_steps=5")


def mgcli(*words: object) -> str:
    """Run a command in the current folder and give what it printed on stdout."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def as_json(*words: object) -> dict[str, Any]:
    return json.loads(mgcli(*words, "--json").strip().splitlines()[-1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_go_from_their_root_to_trained_heads(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS[layout](tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    mgcli("init", "imigue", "--root", "data", "--weights", "random:0")
    assert load_project().protocol == "miga-2025-subject-val"
    assert as_json("extract", "--modality", "video", "--backbone", "tiny_backbones:TinyVideo")["video"]["done"] == 17
    counts = as_json("backbone-train", "--modality", "pose", *TINY_POSE)["counts"]
    assert sum(counts.values()) == 17
    assert as_json("extract", "--modality", "pose")["pose"]["done"] == 17
    assert (
        as_json("extract", "--modality", "context", "--backbone", "tiny_backbones:TinyWindows")["context"]["done"] == 9
    )
    assert as_json("extract", "--modality", "face")["face"]["done"] == 9
    gesture = as_json("fuse-train", "--task", "gesture", *TINY_HEAD)
    assert (gesture["head"], gesture["modalities"]) == ("cross_modal_token_fusion", ["video", "pose"])
    assert all(gesture["metrics"][split] for split in ("val", "test"))
    emotion = as_json("fuse-train", "--task", "emotion", *TINY_HEAD)
    assert (emotion["head"], emotion["modalities"]) == ("inter_fusion", ["face", "context"])
    scored = {split for split, scores in emotion["metrics"].items() if scores}
    assert scored == ({"val"} if layout == "challenge" else {"val", "test"})  # the challenge keeps who won to itself
    for run, form in ((gesture["run"], "miga2025-track1"), (emotion["run"], "miga2025-track3")):
        mgcli("submit", run, "--form", form, "--out", f"{form}.zip")
        with zipfile.ZipFile(tmp_path / f"{form}.zip") as archive:
            header, *rows = archive.read("prediction.csv").decode().splitlines()
        clips = [row.split(",")[0] for row in rows]
        of_test = load_dataset("imigue", tmp_path / "data", protocol="miga-2025-subject-val")
        of_test = of_test[(of_test["split"] == "test") & (of_test["clip_id"].str.contains("_") == (form[-1] == "1"))]
        assert (header, clips) == (
            {"1": "Id,Target", "3": "video_id,label"}[form[-1]],
            of_test["clip_id"].tolist(),
        )


def test_init_says_what_is_left_out_and_keeps_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_full_release(tmp_path / "data", media=False)
    write_smg(tmp_path / "smg")
    table = tmp_path / "data" / "Label" / "labels_20200831.csv"
    table.write_text(table.read_text().replace("\n13,1,", "\none,1,"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "imigue", "--root", "data", "--option", "smg=../smg"])
    assert "33 clips, 4 videos" in done.stdout
    place = Path("data", "Label", table.name)
    assert re.search(rf"1 left out: video_id 'one' is not a whole number: \S*{place}, line 9", done.stderr)
    assert "2 left out: MiGA leaves out the videos without usable skeleton" in done.stderr
    assert "1 left out: SMG class 9 (Crossing legs) has no partner in iMiGUE: smg-Sample0001_2" in done.stderr
    assert 'smg = "../smg"' in (tmp_path / "mgcli.toml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_modalities_at_full_size_with_no_argument_but_the_root(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS[layout](tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    mgcli("init", "imigue", "--root", "data", "--weights", "random:0")
    mgcli("backbone-train", "--modality", "pose")
    for modality, clips in (("video", 17), ("pose", 17), ("face", 9), ("context", 9)):
        assert as_json("extract", "--modality", modality)[modality]["done"] == clips
    for task in ("gesture", "emotion"):
        assert as_json("fuse-train", "--task", task)["seeds"] == [0, 1, 2, 3, 4]
    assert {each.spec.modality for each in open_cache(tmp_path / "features").feature_sets()} == {
        *("video", "pose", "face", "context")
    }
