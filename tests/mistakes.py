"""Common mistakes: what someone types, and how it is answered."""

from __future__ import annotations

from dataclasses import dataclass

IN_TRAINED = ("--cache", "trained/features", "--runs", "runs")
OF_TRAINED = ("--cache", "trained/features")
RUN = "trained/runs/gesture-concat-1"
CLIPS = ("--clips", "clips.csv")


@dataclass(frozen=True)
class Mistake:
    """One of them, made in the folder that `test_cli_mistakes` fills."""

    what: str
    words: tuple[str, ...]
    says: str  # the next command, or the file or flag to change, as the answer names it
    code: int = 1
    files: tuple[tuple[str, str], ...] = ()  # name -> content, written first
    absent: str = ""  # a package that is as if not installed
    cut: str = ""  # files that are cut to half their length, as a pattern


def table(header: str, *rows: str) -> tuple[tuple[str, str], ...]:
    """A clip table in place of the good one."""
    return (("clips.csv", "\n".join((header, *rows, ""))),)


EXTRACT = ("extract", "--modality", "video", *CLIPS)
PARTS = "trained/features/video--*/parts/*.h5"
NEWER = (("trained/features/mgcache.json", '{"format_version": 99, "format": "hdf5"}'),)
EDITED = ((f"{RUN}/config.json", '{"run_version": 1, "task": "gesture"}'),)
TRAIN = ("fuse-train", "--task", "gesture", *IN_TRAINED)
RANDOM = ("--weights", "random:0")

MISTAKES = (
    Mistake("a command misspelt", ("extrct",), "'extract'", 2),
    Mistake("a command of the cache misspelt", ("cache", "inof"), "'info'", 2),
    Mistake("an option misspelt", ("extract", "--modalty", "video"), "--modality", 2),
    Mistake("an option forgotten", ("fuse-train",), "--task", 2),
    Mistake("the wrong folder", ("fuse-train", "--task", "emotion"), "mgcli extract --modality"),
    Mistake("no project file", ("extract", "--modality", "video", "--root", "trained"), "mgcli init"),
    Mistake("a cache that is none", ("cache", "info", "--cache", "trained"), "--cache"),
    Mistake("a file for a cache", ("cache", "info", "--cache", "clips.csv"), "--cache DIR"),
    Mistake("a project file that is not TOML", ("cache", "info"), "mgcli.toml", files=(("mgcli.toml", "[data\n"),)),
    Mistake("a key misspelt", ("cache", "info"), "'path'", files=(("mgcli.toml", "[cache]\npaht = 'x'\n"),)),
    Mistake("a project file that is there", ("init", "table", *CLIPS), "--overwrite", files=(("mgcli.toml", ""),)),
    Mistake("a data set misspelt", ("init", "tabel"), "'table'"),
    Mistake("a protocol misspelt", ("init", "imigue", "--protocol", "miga-trak1"), "'miga-track1'"),
    Mistake("an option of a data set misspelt", ("init", "table", *CLIPS, "--option", "fraction=1"), "'fractions'"),
    Mistake("a folder that is not there", ("init", "folder", "--root", "vidoes"), "--root"),
    Mistake("weights that are not here", (*EXTRACT, "--no-download"), "--weights"),
    Mistake("a file that is no checkpoint", (*EXTRACT, "--weights", "clips.csv"), "clips.csv"),
    Mistake(
        "a checkpoint of another network", (*EXTRACT, "--weights", f"{RUN}/head-seed0.safetensors"), "mgcli weights"
    ),
    Mistake("random weights without a seed", (*EXTRACT, "--weights", "random"), "random:0"),
    Mistake("a modality misspelt", ("extract", "--modality", "vidoe", *CLIPS), "'video'"),
    Mistake("a backbone misspelt", (*EXTRACT, "--backbone", "mvit"), "'mvit_v2_s'"),
    Mistake(
        "a backbone of timm that is none",
        (*EXTRACT, "--backbone", "timm:vit_smal_patch14_dinov2"),
        "vit_small_patch14_dinov2",
    ),
    Mistake("a backbone's file that is not there", (*EXTRACT, "--backbone", "my_backbone:Mine"), "my_backbone"),
    Mistake("a layout misspelt", (*EXTRACT, "--tokens", "fulll"), "full"),
    Mistake("an option of a backbone misspelt", (*EXTRACT, *RANDOM, "--option", "samplin=uniform"), "'sampling'"),
    Mistake("a precision that is none", (*EXTRACT, *RANDOM, "--precision", "fp16"), "bfloat16"),
    Mistake("a device that is not here", (*EXTRACT, *RANDOM, "--device", "cuda:9"), "cuda:9"),
    Mistake("a shard that is none", (*EXTRACT, "--shard", "3/3"), "--shard", 2),
    Mistake("videos that are not there", (*EXTRACT, *RANDOM), "failures.csv", 3, table("clip_id,video", "a,x.mp4")),
    Mistake("no column with the videos", EXTRACT, "no column 'video'", files=table("clip_id,file", "a,a.mp4")),
    Mistake("no column with the ids", EXTRACT, "clip_id", files=table("id,video", "a,a.mp4")),
    Mistake("an id twice", EXTRACT, "clips.csv", files=table("clip_id,video", "a,a.mp4", "a,b.mp4")),
    Mistake("an end before its start", EXTRACT, "clips.csv", files=table("clip_id,video,start_s,end_s", "a,a.mp4,2,1")),
    Mistake("an end without a start", EXTRACT, "clips.csv", files=table("clip_id,video,end_s", "a,a.mp4,2")),
    Mistake(
        "a time that is no number", EXTRACT, "clips.csv", files=table("clip_id,video,start_s,end_s", "a,a.mp4,0:1,2")
    ),
    Mistake("a split that is none", EXTRACT, "clips.csv", files=table("clip_id,video,split", "a,a.mp4,trian")),
    Mistake("a label that is none", EXTRACT, "clips.csv", files=table("clip_id,video,emotion", "a,a.mp4,hapy")),
    Mistake("an empty table", EXTRACT, "clips.csv", files=(("clips.csv", ""),)),
    Mistake("a table that is not there", ("extract", "--modality", "video", "--clips", "clip.csv"), "clip.csv"),
    Mistake("no skeletons", ("backbone-train", "--modality", "pose", *CLIPS), "skeleton"),
    Mistake("no faces' weights", ("extract", "--modality", "face", "--no-download", *CLIPS), "--weights"),
    Mistake("a backbone that is not trained here", ("backbone-train", "--modality", "video", *CLIPS), "pose", 2),
    Mistake("a task misspelt", ("fuse-train", "--task", "gestures", *IN_TRAINED), "'gesture'"),
    Mistake("a head misspelt", (*TRAIN, "--head", "concatt"), "'concat'"),
    Mistake("a setting misspelt", (*TRAIN, "--option", "epoch=3"), "'epochs'"),
    Mistake("a setting that is no number", (*TRAIN, "--option", "epochs=many"), "epochs"),
    Mistake("a setting without a value", (*TRAIN, "--option", "epochs"), "KEY=VALUE", 2),
    Mistake("a modality that the cache lacks", (*TRAIN, "--modalities", "video,face"), "mgcli extract --modality face"),
    Mistake("no labels of the task", ("fuse-train", "--task", "emotion", *IN_TRAINED), "emotion"),
    Mistake("no clips to train on", (*TRAIN, *CLIPS), "mgcli extract"),
    Mistake("a settings file that is not there", (*TRAIN, "--settings", "best.toml"), "best.toml"),
    Mistake("a runs folder that cannot be written to", (*TRAIN[:-1], "/proc/runs"), "--runs DIR"),
    Mistake("a file that cannot be written", ("data", "table", *CLIPS, "--out", "out/table.csv"), "no folder out"),
    Mistake("a run that is not there", ("evaluate", "runs/gesture-1", *OF_TRAINED), "runs/gesture-1"),
    Mistake("a split misspelt", ("evaluate", RUN, *OF_TRAINED, "--split", "tset"), "test"),
    Mistake("a protocol that the cache lacks", (*TRAIN, "--protocol", "miga"), "mgcli extract"),
    Mistake(
        "a grid that is not there", ("ablate", "--task", "gesture", "--grid", "grid.toml", *IN_TRAINED), "grid.toml"
    ),
    Mistake(
        "a key of a grid misspelt",
        ("ablate", "--task", "gesture", "--grid", "g.toml", *IN_TRAINED),
        "'folds'",
        1,
        (("g.toml", "fold = 3\n"),),
    ),
    Mistake("a search that is none", ("tune", "--task", "gesture", "--search", "grid", *IN_TRAINED), "optuna"),
    Mistake("a feature set that is not there", ("cache", "rm", "3f9c", "--yes", *OF_TRAINED), "video--tiny"),
    Mistake("a form misspelt", ("cache", "export", "video--tiny", "o.npz", "--form", "npzz", *OF_TRAINED), "npz"),
    Mistake(
        "features that are not there",
        ("cache", "import", "f.npz", "--modality", "video", "--backbone", "i3d", *CLIPS),
        "f.npz",
    ),
    Mistake("a cache to merge that is none", ("cache", "merge", "other", *OF_TRAINED), "other"),
    Mistake(
        "a clip that is not in the table", ("cache", "explain", "aa", "--modality", "video", *CLIPS, *OF_TRAINED), "'a'"
    ),
    Mistake(
        "a form of the challenge misspelt",
        ("submit", RUN, "--form", "miga2025-trak1", "--out", "o.zip", *OF_TRAINED),
        "miga2025-track1",
    ),
    Mistake(
        "a checkpoint to import that is not there",
        ("weights", "import", "face.pt", "--backbone", "swinface"),
        "face.pt",
    ),
    Mistake(
        "optuna is not installed",
        ("tune", "--task", "gesture", "--search", "optuna", *IN_TRAINED),
        "pip install 'mgcli[tune]'",
        absent="optuna",
    ),
    Mistake("ray is not installed", (*EXTRACT, *RANDOM, "--engine", "ray"), "pip install 'mgcli[ray]'", absent="ray"),
    Mistake(
        "s3fs is not installed",
        ("cache", "info", "--cache", "s3://bucket/features"),
        "pip install 'mgcli[s3]'",
        absent="upath",
    ),
    Mistake(
        "TensorBoard is not installed",
        (*TRAIN, "--track", "tensorboard"),
        "pip install 'mgcli[tracking]'",
        absent="torch.utils.tensorboard",
    ),
    Mistake(
        "umap-learn is not installed",
        ("report", RUN, *OF_TRAINED, "--map", "umap"),
        "pip install 'mgcli[umap]'",
        absent="umap",
    ),
    Mistake("a map misspelt", ("report", RUN, *OF_TRAINED, "--map", "ummap"), "there are pca and umap"),
    Mistake(
        "InsightFace is not here",
        ("extract", "--modality", "face", *CLIPS, *RANDOM, "--option", "detector=insightface"),
        "detector=mtcnn",
        absent="insightface",
    ),
    Mistake("a cache of a newer mgcli", ("cache", "info", *OF_TRAINED), "pip install -U mgcli", files=NEWER),
    Mistake(
        "a damaged mgcache.json", ("cache", "ls", *OF_TRAINED), "mgcache.json", cut="trained/features/mgcache.json"
    ),
    Mistake("a part cut short, checked", ("cache", "verify", *OF_TRAINED), "extract again", cut=PARTS),
    Mistake("a part cut short, read", TRAIN, "mgcli cache verify", cut=PARTS),
    Mistake("two feature sets of a modality", (*TRAIN, "--cache", "double"), "--features video="),
    Mistake(
        "clips of one split alone", (*TRAIN, *CLIPS), "split", files=table("clip_id,gesture,split", "c00000,0,test")
    ),
    Mistake(
        "a run's file without a key", ("report", RUN), "config.json is damaged: it has no key 'created'", files=EDITED
    ),
    Mistake("a run's file by hand", ("evaluate", RUN, *OF_TRAINED), f"{RUN}/config.json", files=EDITED),
    Mistake("no number of seeds", (*TRAIN, "--seeds", "0"), "--seeds", 2),
)
