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
    "--head concat --modalities video,pose --seeds": "--features video=grey_motion",
    "mgcli cache derive": "--grid 1,4,1",
    "mgcli cache rm": "--yes",
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

# Commands that the text names in backquotes with placeholders in capitals, and lines of that form, which are run.
FORMS = {
    "mgcli init DATASET": "mgcli init folder --root DIR",
    "mgcli extract --modality M": "mgcli extract --modality video",
    "mgcli cache explain CLIP --modality M": "mgcli cache explain 0001_1 --modality video",
    "mgcli cache merge OTHER": "mgcli cache merge second",
    "mgcli cache import FILE --modality M --backbone NAME": (
        "mgcli cache import features.npz --modality video --backbone i3d"
    ),
    "mgcli cache derive NAME --tokens T": "mgcli cache derive 3f9c21ab --tokens pooled",
    "mgcli cache derive NAME --tokens time|joint|pooled": "mgcli cache derive 3f9c21ab --tokens pooled",
    "mgcli cache export NAME OUT --form F": "mgcli cache export 3f9c21ab mvit.npz --form npz",
    "mgcli fuse-train --task T": "mgcli fuse-train --task gesture",
    "mgcli ablate --task T": "mgcli ablate --task emotion",
    "mgcli tune --task T": "mgcli tune --task emotion",
    "mgcli ensemble SOURCE...": "mgcli ensemble runs/gesture-a runs/gesture-b",
    "mgcli report RUN...": "mgcli report runs/gesture-a",
    "mgcli view CLIP_ID": "mgcli view s03-session-2",
    "mgcli reproduce RUN": "mgcli reproduce runs/gesture-a",
    "mgcli evaluate RUN": "mgcli evaluate runs/gesture-a",
    "mgcli predict RUN": "mgcli predict runs/gesture-a",
    "mgcli submit RUN --form F --out FILE": "mgcli submit runs/gesture-a --form miga2025-track1 --out one.zip",
    "mgcli weights import FILE --backbone NAME": (
        "mgcli weights import checkpoint_step_79999_gpu_0.pt --backbone swinface"
    ),
    "mgcli bench extract --backbone NAME": "mgcli bench extract --backbone my_backbone:GreyMotion",
    "mgcli cache rm NAME": "mgcli cache rm 3f9c21ab",
}

# Commands that the text names and that are only read, as the command line reads them, and why they are not run.
ONLY_READ = {
    "mgcli demo": "takes minutes",
    "mgcli backbone-train --modality pose --option joints=ntu25 --option normalize=ntu": "is for many NTU skeletons",
    "mgcli --install-completion": "writes into the shell's own files",
    "mgcli bench extract": "takes minutes",
    "mgcli bench skeletons": "takes minutes",
    "mgcli bench fuse": "takes minutes",
    "mgcli bench cache": "writes a gigabyte",
}
