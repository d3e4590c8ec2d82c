"""The command line: every command has help and stands in the README, and the main paths run as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from samples import make_table, make_tokens
from tiny_media import make_video

from mgcli.cache import load_project
from mgcli.cli import ORDER, app

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def all_commands(group: Any, path: str = "mgcli") -> Iterator[tuple[str, Any]]:
    """Every command with the words that call it."""
    if getattr(group, "invoke_without_command", False) and path != "mgcli":
        yield path, group
    if hasattr(group, "commands"):
        for name, command in group.commands.items():
            yield from all_commands(command, f"{path} {name}")
    else:
        yield path, group


COMMANDS = dict(all_commands(typer.main.get_command(app)))


def mgcli(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "mgcli.cli", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MGCLI_WEIGHTS_DIR": str(cwd / "no-weights"), "TORCH_HOME": str(cwd / "no-weights")},
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_has_help(path: str) -> None:
    command = COMMANDS[path]
    assert command.help, path
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{path} {parameter.opts}"


def test_the_readme_lists_every_command_and_no_other() -> None:
    rows = re.findall(r"^\| `(mgcli [a-z -]+)", README, flags=re.MULTILINE)
    listed = {re.sub(r"( --?[a-z]+| [A-Z]+).*", "", row).strip() for row in rows}
    assert listed == set(COMMANDS)


def test_the_commands_stand_in_the_order_of_their_use(tmp_path: Path) -> None:
    shown = mgcli("--help", cwd=tmp_path).stdout.partition("Commands:\n")[2]
    in_help = re.findall(r"^  ([a-z-]+) ", shown, flags=re.MULTILINE)
    in_readme = dict.fromkeys(re.findall(r"^\| `mgcli ([a-z-]+)", README, flags=re.MULTILINE))
    assert in_help == list(ORDER) == list(in_readme)


def test_every_option_in_the_readme_exists() -> None:
    parameters = [parameter for command in COMMANDS.values() for parameter in command.params]
    known = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "--version", "--quiet", "--editable", "--install-completion", "--show-completion"}
    known |= {"--array", "--gpus", "--wrap", "--head", "--address"}  # of sbatch and ray
    known |= {"--name", "--title", "--output"}  # of typer
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known


def test_help_and_version(tmp_path: Path) -> None:
    assert "extract" in mgcli("--help", cwd=tmp_path).stdout
    assert mgcli("--version", cwd=tmp_path).stdout.startswith("mgcli ")
    mgcli("extrakt", cwd=tmp_path, code=2)


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """A folder with a cache of two imported modalities, 24 clips each, no project file."""
    table = make_table(48, 12)
    table.drop(columns=["video", "skeleton"]).to_csv(tmp_path / "clips.csv", index=False)
    for modality in ("context", "pose"):
        arrays = {
            clip_id: make_tokens(clip_id + modality, 4, 6) + 2 * (emotion == "win")
            for clip_id, emotion in zip(table["clip_id"], table["emotion"], strict=True)
        }
        np.savez(tmp_path / f"{modality}.npz", **arrays)  # type: ignore[arg-type]
        mgcli(
            *("cache", "import", f"{modality}.npz", "--modality", modality, "--backbone", "mine"),
            *("--clips", "clips.csv", "--format", "zarr"),
            cwd=tmp_path,
        )
    return tmp_path


def test_both_commands_run_as_they_stand_in_a_project_folder(tmp_path: Path) -> None:
    rows = ["clip_id,video,subject_id,split,emotion"]
    for i in range(6):
        make_video(tmp_path / f"v{i}.mp4", num_frames=18, first_number=i)  # no two alike
        rows.append(f"c{i},v{i}.mp4,s{i // 2},{'test' if i >= 4 else 'train'},{('win', 'lose')[i % 2]}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    mgcli("init", "table", "--clips", "clips.csv", "--weights", "random:0", cwd=tmp_path)
    kept = load_project(tmp_path).extract
    assert kept == {modality: {"weights": "random:0"} for modality in ("video", "context", "face")}
    assert "6 clips done" in mgcli("extract", "--modality", "video", cwd=tmp_path).stdout
    assert "6 there already" in mgcli("extract", "--modality", "video", cwd=tmp_path).stdout
    assert "weights: video random:0" in mgcli("fuse-train", "--task", "emotion", cwd=tmp_path).stdout


def test_views_are_extracted_and_trained_on(tmp_path: Path) -> None:
    rows = ["clip_id,video,subject_id,split,gesture"]
    for i in range(6):
        make_video(tmp_path / f"v{i}.mp4", num_frames=18, first_number=i)
        rows.append(f"c{i},v{i}.mp4,s{i // 2},{('train', 'val', 'test')[i // 2]},{i % 2}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    (tmp_path / "tiny_backbones.py").write_text((Path(__file__).parent / "tiny_backbones.py").read_text())
    tiny = ("--modality", "video", "--backbone", "tiny_backbones:TinyVideo", "--weights", "random:0")
    mgcli("init", "table", "--clips", "clips.csv", cwd=tmp_path)
    mgcli("extract", *tiny, cwd=tmp_path)
    train = ("fuse-train", "--task", "gesture", "--head", "concat", "--seeds", 1, "--option", "min_steps=5")
    lacking = mgcli(*train, "--option", "views=2", cwd=tmp_path, code=1).stderr
    assert "make them: mgcli extract --modality video --views 2" in lacking
    said = mgcli("extract", *tiny, "--views", 2, cwd=tmp_path).stdout
    assert "0 clips done, 6 there already" in said
    assert "augmented views 1 to 2 of the training clips: 4 done, 0 there already, 0 failed" in said
    assert "lacks" not in mgcli(*train, "--option", "views=2", cwd=tmp_path).stderr
    assert "the cache lacks 2 of the augmented views" in mgcli(*train, "--option", "views=3", cwd=tmp_path).stderr
    assert "6 clips and 4 augmented views (1 to 2)" in mgcli("cache", "info", cwd=tmp_path).stdout
    assert "6 clips and 4 augmented views" in mgcli("cache", "ls", cwd=tmp_path).stdout
    told = mgcli("cache", "explain", "c0", *tiny, "--views", 3, cwd=tmp_path).stdout
    assert "view 3 not yet" in told
    with (tmp_path / "mgcli.toml").open("a") as file:
        file.write("\n[extract.video]\nviews = 3\nview_flip = false\n")
    again = mgcli("extract", *tiny, "--view-flip", cwd=tmp_path).stdout  # the flag goes over the file
    assert "augmented views 1 to 3 of the training clips: 2 done, 4 there already" in again
    (tmp_path / "mgcli.toml").write_text((tmp_path / "mgcli.toml").read_text().replace("views = 3", 'views = "3"'))
    assert "views is '3'; it must be a whole number" in mgcli("extract", *tiny, cwd=tmp_path, code=1).stderr


def test_a_clip_can_be_viewed_before_anything_is_cached(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=18)
    (tmp_path / "clips.csv").write_text("clip_id,video\n../odd id,v.mp4\ngone,nowhere.mp4\n")
    viewed = json.loads(mgcli("view", "../odd id", "--clips", "clips.csv", "--json", cwd=tmp_path).stdout)
    assert viewed["page"] == "..%2Fodd id.html"
    assert viewed["frames"] == 16
    assert "no cache in" in (tmp_path / viewed["page"]).read_text(encoding="utf-8")
    assert "nowhere.mp4: no such file" in mgcli("view", "gone", "--clips", "clips.csv", cwd=tmp_path).stdout
    said = mgcli("view", "../od id", "--clips", "clips.csv", cwd=tmp_path, code=1).stderr
    assert said == "mgcli: no clip '../od id' in the clip table; did you mean '../odd id'?\n"


def test_a_clip_can_be_viewed_with_a_run_and_without_media(imported: Path) -> None:
    option = ("--option", "epochs=1", "--option", "min_steps=1")
    mgcli("fuse-train", "--task", "emotion", "--head", "inter_fusion", "--seeds", "1", *option, cwd=imported)
    (run,) = (imported / "runs").iterdir()
    viewed = json.loads(mgcli("view", "c3", "--run", run, "--json", cwd=imported).stdout)
    assert viewed["frames"] == 0
    assert any("names no video" in note for note in viewed["notes"])
    assert [len(each) for each in viewed["attention"].values()] == [4, 4]
    assert all(sum(each) == pytest.approx(1) for each in viewed["attention"].values())
    page = (imported / "c3.html").read_text(encoding="utf-8")
    assert "Attention to context (mine, imported)" in page
    said = mgcli("view", "c3", "--run", run, "--seed", "5", cwd=imported, code=1).stderr
    assert "has no seed 5; it has 0" in said
    said = mgcli("view", "c3", "--run", "runs", cwd=imported, code=1).stderr
    assert "is no run folder" in said


def test_stage_two_works_without_stage_one(imported: Path) -> None:
    info = json.loads(mgcli("cache", "info", "--json", cwd=imported).stdout)
    assert [(each["modality"], each["clips"], each["dim"], each["format"]) for each in info["feature_sets"]] == [
        ("context", 48, 6, "zarr"),
        ("pose", 48, 6, "zarr"),
    ]
    assert json.loads(mgcli("cache", "verify", "--json", cwd=imported).stdout)["ok"]
    done = mgcli(
        *("fuse-train", "--task", "emotion", "--seeds", 2, "--json", "--option", "epochs=5"),
        *("--option", "min_steps=20"),
        cwd=imported,
    )
    result = json.loads(done.stdout)
    assert (result["task"], result["head"], result["seeds"]) == ("emotion", "inter_fusion", [0, 1])
    assert result["modalities"] == ["pose", "context"]  # pose stands in for face
    for split in ("val", "test"):
        for score in ("top1", "macro_f1", "mean_class_accuracy"):
            assert set(result["metrics"][split][score]) == {"mean", "std", "values"}
    run = Path(result["run"])
    again = json.loads(mgcli("evaluate", run, "--json", cwd=imported).stdout)
    assert again["metrics"]["test"]["top1"] == result["metrics"]["test"]["top1"]
    report = json.loads(mgcli("report", run, "--json", cwd=imported).stdout)
    assert (report["out"], report["groups"][0]["runs"]) == ("report.html", [str(run)])
    mgcli("report", run, "--out", "predictions.html", "--cache", "absent", cwd=imported, code=1)
    mgcli("cache", "info", "--html", "cache.html", cwd=imported)
    assert "Specs side by side" in (imported / "cache.html").read_text(encoding="utf-8")
    mgcli("predict", run, "--out", "predictions.csv", cwd=imported)
    assert len(pd.read_csv(imported / "predictions.csv")) == 48


def test_a_cache_of_one_modality_trains_that_one_and_says_so(imported: Path) -> None:
    mgcli("cache", "rm", "pose--mine", "--yes", cwd=imported, code=1)
    name = next((imported / "features").glob("pose--*")).name
    mgcli("cache", "rm", name, "--yes", cwd=imported)
    done = mgcli(*("fuse-train", "--task", "emotion", "--seeds", 1, "--json", "--option", "epochs=1"), cwd=imported)
    assert json.loads(done.stdout)["head"] == "single_context"
    assert "the cache has no face" in done.stderr
    assert "mgcli extract --modality face" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cache", "info"], "no cache in features; fill one with: mgcli extract"),
        (["extract", "--modality", "video"], "no clip table"),
        (["extract", "--modality", "vidoe", "--clips", "clips.csv"], "did you mean 'video'"),
        (["extract", "--modality", "video", "--clips", "clips.csv", "--tokens", "fulll"], "mvit_v2_s offers: time"),
        (["extract", "--modality", "video", "--clips", "clips.csv", "--no-download"], "mvit_v2_s-ae3be167.pth"),
        (["extract", "--modality", "video", "--clips", "clips.csv", "--cache", "clips.csv"], "is a file"),
        (["init", "tabel"], "did you mean 'table'"),
        (["fuse-train", "--task", "emotion"], "no cache in features"),
        (["evaluate", "absent"], "no cache in features"),
        (["report", "absent"], "absent is no run folder"),
        (["report", "absent", "--out", "clips.csv"], "clips.csv is there and no page of mgcli"),
        (["ablate", "--task", "gesture", "--head", "concat"], "no cache in features"),
        (["ensemble", "absent.pkl", "--task", "gesture"], "absent.pkl does not name its clips"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_1(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "clips.csv").write_text("clip_id,video,split\na,a.mp4,train\n")
    if message == "no clip table":
        (tmp_path / "clips.csv").unlink()
    done = mgcli(*words, cwd=tmp_path, code=1)
    assert message in done.stderr
    assert done.stderr.startswith("mgcli: ")
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_features_go_out_and_come_in_again(imported: Path) -> None:
    name = next((imported / "features").glob("pose--*")).name
    for words in (("out.npz", "--form", "npz"), ("out", "--form", "npy"), ("out.h5", "--form", "share")):
        report = json.loads(mgcli("cache", "export", name, *words, "--json", cwd=imported).stdout)
        assert (report["clips"], report["path"], report["form"]) == (48, words[0], words[2])
    mgcli("cache", "export", name, "out.npz", "--form", "npz", cwd=imported, code=1)
    words = ("--modality", "pose", "--backbone", "copy", "--clips", "clips.csv", "--cache", "second", "--json")
    assert json.loads(mgcli("cache", "import", "out", *words, cwd=imported).stdout)["done"] == 48
    assert json.loads(mgcli("cache", "import", "out.npz", *words, cwd=imported).stdout)["skipped"] == 48
    done = mgcli("cache", "import", "out.h5", "--cache", "second", cwd=imported)
    assert f"{name}: 48 clips imported, 0 clips already there, 0 new clip table(s)" in done.stdout
    mgcli("cache", "import", "out.npz", "--clips", "clips.csv", cwd=imported, code=2)
    mgcli("cache", "import", "out.h5", "--modality", "pose", cwd=imported, code=2)


def test_lists_print_tables_and_json(tmp_path: Path) -> None:
    for command, names in (
        (
            "backbones",
            {"mvit_v2_s", "agcn_two_stream", "agcn_bone", "swinface", "joints", "timm:NAME", "torchvision:NAME"},
        ),
        ("heads", {"cross_modal_token_fusion", "inter_fusion", "single", "concat", "score_average", "constant"}),
        ("datasets", {"table", "folder", "demo"}),
    ):
        text = mgcli(command, cwd=tmp_path).stdout
        rows = json.loads(mgcli(command, "--json", cwd=tmp_path).stdout)
        assert names <= {row["name"] for row in rows}
        assert all(row["name"] in text for row in rows)


def test_the_backbone_of_the_readme_works(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(import numpy.*?)```", README, flags=re.DOTALL)
    (tmp_path / "my_backbone.py").write_text(code)
    make_video(tmp_path / "v.mp4", num_frames=30)
    (tmp_path / "clips.csv").write_text("clip_id,video\na,v.mp4\n")
    words = ("--backbone", "my_backbone:GreyMotion", "--weights", "random:0")
    mgcli("extract", "--modality", "video", "--clips", "clips.csv", *words, cwd=tmp_path)
    (features,) = json.loads(mgcli("cache", "info", "--json", cwd=tmp_path).stdout)["feature_sets"]
    assert (features["backbone"], features["tokens"], features["dim"]) == ("grey_motion", 7, 32)
    report = json.loads(mgcli("bench", "extract", *words, "--seconds", "0.1", "--json", cwd=tmp_path).stdout)
    assert report["weights"] == "random:0"
