"""Common mistakes are answered with the exit code, a line or two, no traceback, and what to run or change next."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mistakes import MISTAKES, Mistake
from planted import QUICK, planted_cache
from tiny_media import make_video

from mgcli import cli
from mgcli.fuse import train_head


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as someone has it who has begun: videos, a clip table, a cache, a run; another cache with two sets."""
    folder = tmp_path_factory.mktemp("prepared")
    cache = planted_cache(folder / "trained/features", num_train=40, num_test=20)
    head = {"head": "concat", "seeds": 1, "config": QUICK, "progress": False}
    train_head(cache, "gesture", runs=folder / "trained/runs", name="gesture-concat-1", say=lambda _: None, **head)  # type: ignore[arg-type]
    double = planted_cache(folder / "double", num_train=40, num_test=20)
    spec = double.feature_set("video").spec
    with double.create_feature_set(replace(spec, weights="others")).writer() as writer:
        writer.add("c00000", np.ones((8, spec.dim), np.float32))
    for name in ("a", "b"):
        make_video(folder / f"{name}.mp4", num_frames=20, first_number=ord(name))
    rows = ["clip_id,video,split,gesture,emotion,subject_id", "a,a.mp4,train,0,win,s1", "b,b.mp4,train,1,lose,s2", ""]
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder


def test_they_are_forty_and_more() -> None:
    assert len({mistake.words + mistake.files for mistake in MISTAKES}) >= 40


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_is_answered_with_what_to_do(
    mistake: Mistake,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(folder)
    for variable in ("MGCLI_WEIGHTS_DIR", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "no-weights"))
    for name, content in mistake.files:
        Path(name).write_text(content)
    for path in Path().glob(mistake.cut) if mistake.cut else ():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if mistake.absent:
        monkeypatch.setitem(sys.modules, mistake.absent, None)
    monkeypatch.setattr(sys, "argv", ["mgcli", *mistake.words])
    with pytest.raises(SystemExit) as end:  # anything else would be a traceback
        cli.main()
    said = capsys.readouterr()
    assert end.value.code == mistake.code, said.err
    assert mistake.says in said.out + said.err
    lines = [line for line in said.err.splitlines() if not line.startswith("warning: ")]
    if mistake.code == 1 and not said.out:
        assert len(lines) == 1
        assert lines[0].startswith("mgcli: ")
    if mistake.code == 2:  # usage and where help is, then one line
        assert len(lines) == 4
        assert lines[-1].startswith("Error: ")
