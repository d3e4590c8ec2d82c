"""How the README's examples are run on small stand-ins: where, with what in a placeholder's stead, how shortened."""

from __future__ import annotations

# Lines that are not run, and why.
NOT_RUN = {"mgcli demo": "the main job takes minutes: `pytest -m slow` runs it"}

# Appended to each line of a command, so that it takes seconds. What the line itself says stays.
SHORT = {
    "backbone-train": "--option epochs=1 --option num_frames=4 --option min_steps=0 --workers 0",
    "extract": "--workers 0",
    "fuse-train": "--seeds 2 --option epochs=1 --option min_steps=5 --option width=16 --option num_heads=2",
    "ablate": "--seeds 2 --option epochs=1 --option min_steps=5 --processes 1",
    "tune": "--trials 2 --folds 2 --seeds 2 --option epochs=1 --option min_steps=5 --processes 1",
    "bench": "--seconds 0.1",
}

# Appended to lines that hold a text.
MORE = {
    "--backbone timm:": "--clips one.csv --option num_frames=1",
    "--backbone torchvision:": "--clips one.csv",
    "import mvit.mgcache.h5": "--cache second",
    "mgcli init ": "--overwrite",
}

# The folder that lines with a text are run in, where it is not `own`.
PLACES = {
    "init folder": "folder",
    "draw_splits": "unsplit",
    "init imigue": "imigue",
    "init smg": "smg",
    "ntu_": "ntu",
    "checkpoint_step": "faces",
}

# What stands for a placeholder; a star for the rest of a name, of which there may be several: the last is taken.
FILLED = {
    "s03-session-2": "0001_1",
    "runs/gesture-a": "runs/gesture-single_video-*",
    "runs/gesture-b": "runs/gesture-single_pose-*",
    "runs/gesture-concat-1a2b3c": "runs/gesture-concat-*",
    "runs/gesture-cross_modal_token_fusion-1a2b3c": "runs/gesture-cross_modal_token_fusion-*",
    "runs/gesture-single_video-f1e3b3": "runs/gesture-single_video-*",
    "3f9c21ab": "features/video--tiny_video--*",
}
