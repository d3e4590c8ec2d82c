"""Small stand-ins for what the README's examples work on: own videos, data sets, checkpoints, others' features."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from golden_weights import golden_state
from released_forms import agcn_released
from replica_imigue import write_challenge
from replica_smg import write_smg
from safetensors.torch import save_file
from tiny_media import make_video
from tiny_skeletons import points, write_ntu

from mgcli.extract.backbone_swinface import SwinFace

SPLITS = ("train",) * 4 + ("val",) * 2 + ("test",) * 2  # of eight subjects, a video each
GESTURES = ("0", "1")
NUM_FRAMES = 64
QUICK_PROJECT = """
[extract.video]
backbone = "tiny_backbones:TinyVideo"
weights = "random:0"

[extract.context]
backbone = "tiny_backbones:TinyWindows"
weights = "random:0"

[extract.face]
weights = "random:0"
"""


def make_stand_ins(folder: Path, readme: str) -> None:
    """One folder for each place in which examples are run; a data set's is called DIR in it."""
    for name in ("own", "unsplit", "folder", "imigue", "smg", "ntu", "faces", "worked"):
        (folder / name).mkdir()
    write_own(folder / "own", readme)
    table = pd.read_csv(folder / "own/clips.csv", dtype=str)
    for column in ("video", "skeleton", "face"):
        table[column] = "../own/" + table[column]
    table.drop(columns="split").to_csv(folder / "unsplit/clips.csv", index=False)
    gestures = table[table["gesture"].notna()]
    gestures.drop(columns=["skeleton", "face", "emotion"]).to_csv(folder / "worked/clips.csv", index=False)
    table[table["emotion"].notna()][:1].to_csv(folder / "faces/clips.csv", index=False)
    write_folder(folder / "folder/DIR")
    write_challenge(folder / "imigue/DIR")
    write_smg(folder / "smg/DIR")
    write_released(folder / "ntu", folder / "faces")
    for name in ("ntu", "faces", "worked"):
        (folder / name / "mgcli.toml").write_text('[data]\nclips = "clips.csv"\n')


def write_own(folder: Path, readme: str) -> None:
    """A clip table with gestures and interviews, and the files that people bring beside it."""
    rows = []
    for number, split in enumerate(SPLITS):
        name = f"{number:04d}"
        make_video(folder / f"{name}.mp4", NUM_FRAMES, first_number=number)
        rng = np.random.default_rng(number)
        skeleton = rng.normal(100, 20, (NUM_FRAMES, 22, 3)).astype(np.float32)
        skeleton[..., 2] = 0.9
        np.save(folder / f"{name}_skeleton.npy", skeleton)
        face = np.tile(np.array([10, 5, 50, 45, 22, 18, 38, 18, 30, 26, 23, 36, 37, 36], np.float32), (NUM_FRAMES, 1))
        np.save(folder / f"{name}_face.npy", face)
        common = {"video": f"{name}.mp4", "subject_id": f"p{number}", "split": split}
        common |= {"skeleton": f"{name}_skeleton.npy", "face": f"{name}_face.npy"}
        rows += [
            common | {"clip_id": f"{name}_{k}", "start_frame": 16 * k, "end_frame": 16 * k + 16, "gesture": gesture}
            for k, gesture in enumerate(GESTURES * 2)
        ]
        rows.append(common | {"clip_id": name, "emotion": ("win", "lose")[number % 2]})
    table = pd.DataFrame(rows).astype({"start_frame": "Int64", "end_frame": "Int64"})
    table.to_csv(folder / "clips.csv", index=False)
    gestures = table[table["gesture"].notna()]
    gestures[gestures["split"] == "test"].to_csv(folder / "test.csv", index=False)
    gestures[:1].to_csv(folder / "one.csv", index=False)
    rng = np.random.default_rng(0)
    for name, split in (("skeleton_scores", "test"), ("rgb", "test"), ("rgb_val", "val")):
        scores = rng.dirichlet(np.ones(len(GESTURES)), size=int((gestures["split"] == split).sum()))
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(list(scores)))
    features = {clip_id: rng.standard_normal((4, 8)).astype(np.float32) for clip_id in gestures["clip_id"]}
    np.savez(folder / "features.npz", **features)  # type: ignore[arg-type]
    (folder / "i3d_output").mkdir()
    for clip_id, array in features.items():
        np.save(folder / "i3d_output" / f"{clip_id}_rgb.npy", array)
    for name, pattern in (("my_backbone.py", r"```python\n(import numpy.*?)```"), ("grid.toml", r"```toml\n(.*?)```")):
        (code,) = re.findall(pattern, readme, flags=re.DOTALL)
        (folder / name).write_text(code)
    model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0)
    save_file(model.state_dict(), folder / "dinov2_small.safetensors")


def write_folder(folder: Path) -> None:
    """Videos side by side, and who does what in them."""
    folder.mkdir()
    lines = ["file,gesture,split\n"]
    for number in range(6):
        name = f"s{number:02d}_{GESTURES[number % 2]}.mp4"
        make_video(folder / name, 125, first_number=number)
        lines.append(f"{name},{GESTURES[number % 2]},\n")
    (folder / "labels.csv").write_text("".join(lines))


def write_released(ntu: Path, faces: Path) -> None:
    """Checkpoints as the authors of 2s-AGCN and SwinFace give theirs out, with made-up numbers, and a clip for each."""
    skeletons = points(20, 25, seed=1) / 100  # in metres
    write_ntu(ntu / "walk.skeleton", [[("72", person)] for person in skeletons])
    (ntu / "clips.csv").write_text("clip_id,skeleton,skeleton_fps,gesture\nwalk,walk.skeleton,30,walking\n")
    for stream in ("joint", "bone"):
        torch.save(agcn_released(), ntu / f"ntu_{stream}.pt")
    network = SwinFace().network
    content = {
        f"state_dict_{s}": golden_state(getattr(network, s), "swinface") for s in ("backbone", "fam", "tss", "om")
    }
    torch.save(content | {"epoch": 7, "state_optimizer": {}}, faces / "checkpoint_step_79999_gpu_0.pt")


def quicken(project_file: Path) -> None:
    """Tiny backbones in place of the published ones, as a project may name them."""
    if project_file.is_file():
        content = project_file.read_text()
        project_file.write_text(content.partition("\n[extract")[0] + QUICK_PROJECT)
