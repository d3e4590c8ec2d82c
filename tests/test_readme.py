"""What the documents show is so: every command and option is described, every example can be typed or run."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from planted import QUICK, planted_cache
from test_cli import COMMANDS

from mgcli.cli import app
from mgcli.fuse import train_head

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / ".docs/commands.md").read_text(encoding="utf-8")
AGAIN = "it is made anew with the line in README, section `Every command and option`"


def blocks(language: str) -> list[str]:
    """The code blocks of README in a language; "" for those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def typed_commands() -> list[str]:
    """Every command line with mgcli in it, as a user types it."""
    commands = []
    for line in (line.strip() for block in blocks("") for line in block.splitlines()):
        wrapped = re.search(r"--wrap '(mgcli .*)'$", line)  # of sbatch
        line = wrapped[1] if wrapped else re.sub(r".*&& \S*/(?=mgcli )", "", line)
        commands += [line] if line.startswith("mgcli ") else []
    return commands


def named_commands(text: str) -> list[str]:
    """Every command with `mgcli` in front that a text names in backquotes: in sentences, bullets and tables."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return list(dict.fromkeys(" ".join(each.split()) for each in re.findall(r"`(mgcli\s[^`]*)`", text)))


def parsed(line: str) -> list[str]:
    """The words of a command, after the command line has read them as it would; nothing is run."""
    words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "0"))[1:]
    command: Any = typer.main.get_command(app)
    path = ["mgcli"]
    while hasattr(command, "commands") and words and words[0] in command.commands:
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(" ".join(path), words.copy(), resilient_parsing=False)
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        command.resolve_command(context, words)  # which says that there is no such command
    return path


@pytest.mark.parametrize("line", sorted(set(typed_commands())))
def test_every_command_of_the_readme_can_be_typed(line: str) -> None:
    assert " ".join(parsed(line)) in COMMANDS


def test_a_command_that_is_wrong_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed("mgcli extract --modality video --shards 0/8")
    assert len(typed_commands()) >= 40


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_on_the_page_with_its_help(path: str) -> None:
    section = re.search(rf"^##+ `{path}`\n(.*?)(?=^##|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert section, f"{path} is not in .docs/commands.md; {AGAIN}"
    for parameter in COMMANDS[path].params:
        if parameter.param_type_name == "option":
            assert f"`{parameter.opts[0]}" in section[1], f"{path} {parameter.opts[0]}; {AGAIN}"
            assert parameter.help in section[1], f"{path} {parameter.opts[0]}; {AGAIN}"


def test_the_page_has_no_command_that_is_gone() -> None:
    named = set(re.findall(r"^##+ `(mgcli [a-z -]+)`", PAGE, flags=re.MULTILINE))
    assert set(COMMANDS) <= named
    groups = {path.rpartition(" ")[0] for path in COMMANDS}
    assert named <= set(COMMANDS) | groups, AGAIN


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the backbone, which `test_cli` runs; the notebook's training is shortened."""
    cache = planted_cache(tmp_path / "features", num_train=40, num_test=20)
    clip_ids = cache.feature_set("video").clips()["clip_id"].tolist()
    monkeypatch.chdir(tmp_path)
    import mgcli.fuse

    monkeypatch.setattr(
        mgcli.fuse,
        "train_head",
        lambda *given: train_head(*given, seeds=1, config=QUICK, progress=False),
        raising=False,
    )
    notebook, plain = [block for block in blocks("python") if not block.startswith("import numpy")]
    names: dict[str, Any] = {"clip_ids": clip_ids, "batch": [0, 1], "buffer": None}
    exec(notebook.replace('"clip_a", "clip_b"', f'"{clip_ids[0]}", "{clip_ids[1]}"'), names)
    assert "gesture" in capsys.readouterr().out
    exec(plain, {})
    assert capsys.readouterr().out.count(" valid\n") == len(clip_ids)


def test_the_grid_of_the_readme_is_one(tmp_path: Path) -> None:
    from mgcli.fuse.grid import make_grid
    from mgcli.fuse.grid_file import read_grid

    (grid,) = blocks("toml")
    (tmp_path / "grid.toml").write_text(grid)
    assert make_grid(read_grid(tmp_path / "grid.toml"))


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
