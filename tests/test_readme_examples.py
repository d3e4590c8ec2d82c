"""Every `mgcli` line of the README and of the worked example is run, in their order; see `readme_examples` for how.

Commands that their text names in sentences, bullets and tables are read as the command line reads them, and run after
the lines.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from readme_examples import FILLED, FORMS, MORE, NOT_RUN, ONLY_READ, PLACES, SHORT
from readme_stand_ins import make_stand_ins, quicken
from test_cli import COMMANDS
from test_readme import PAGE, README, ROOT, blocks, named_commands, parsed, typed_commands

from mgcli import cli

WORKED = (ROOT / ".docs/own_videos.md").read_text(encoding="utf-8")
SHOWN: list[tuple[str, list[str]]] = [  # commands of the worked example, and the lines that it says they print
    (command, printed.splitlines())
    for command, printed in re.findall(r"^```\n\$ (mgcli .*)\n((?:.*\n)*?)```$", WORKED, flags=re.MULTILINE)
]
NAMED = named_commands(README + WORKED)
ROOT_COMMAND = typer.main.get_command(cli.app)
TYPED = [line for line in typed_commands() if line not in NOT_RUN]


def is_name_alone(named: str) -> bool:
    """Whether it names a command that cannot be typed so, such as one that is said to be documented below."""
    needs = [each for each in COMMANDS[named].params if each.required] if named in COMMANDS else []
    return bool(needs) or (named not in COMMANDS and any(path.startswith(f"{named} ") for path in COMMANDS))


def to_type(named: str) -> str:
    """What someone types who follows it: its placeholders filled in."""
    return FORMS.get(named, named)


NEW = dict.fromkeys(
    to_type(named)
    for named in NAMED
    if named not in ONLY_READ and to_type(named) not in TYPED and not is_name_alone(named)
)
LINES = [*TYPED, *sorted(NEW, key=lambda line: line.startswith("mgcli cache rm"))]  # which takes away from others


@dataclass(frozen=True)
class Outcome:
    """What a line gave."""

    typed: str  # as it was run
    code: int | str | None
    said: str


def run(line: str, folder: Path) -> Outcome:
    """Run a line in a folder, as the first shell that is opened there would."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(folder), redirect_stdout(said), redirect_stderr(said):
        words = typed(line)
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv("MGCLI_SKELETON_STORE", "off")
        for variable in ("MGCLI_WEIGHTS_DIR", "TORCH_HOME"):
            patch.setenv(variable, str(folder.parent / "no-weights"))
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = repr(error)
        if line.startswith("mgcli init"):
            quicken(Path("mgcli.toml"))
    return Outcome(shlex.join(words), code, said.getvalue())


def typed(line: str) -> list[str]:
    """The words of a line as a shell hands them over in the current folder, and what is appended."""
    words: list[str] = []
    for word in shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "0")):
        if word in FILLED:
            found = max(map(str, Path().glob(FILLED[word])), default=FILLED[word])
            words.append(Path(found).name.rpartition("--")[2] if found.startswith("features/") else found)
        else:
            words += sorted(map(str, Path().glob(word))) if "*" in word else [word]
    return words + shlex.split(" ".join([SHORT.get(words[1], ""), *of_line(MORE, line)]))


def of_line(table: Mapping[str, str], line: str) -> list[str]:
    return [value for text, value in table.items() if text in line]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """Of all lines, run one after the other."""
    folder = tmp_path_factory.mktemp("readme")
    make_stand_ins(folder, README)
    done = [run(line, folder / next(iter(of_line(PLACES, line)), "own")) for line in LINES]
    return done + [run(line, folder / "worked") for line, _ in SHOWN]


@pytest.mark.parametrize(("number", "line"), list(enumerate([*LINES, *(line for line, _ in SHOWN)])))
def test_an_example_does_what_it_says(outcomes: list[Outcome], number: int, line: str) -> None:
    expect_done(outcomes[number])


def expect_done(done: Outcome) -> None:
    assert done.code == 0, f"{done.typed}\n{done.said}"


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_the_worked_example_shows_what_is_printed(outcomes: list[Outcome], number: int) -> None:
    """Each line begins with the same three words, numbers and names of files aside."""

    def begins(line: str) -> list[str]:
        return ["#" if re.search(r"[\d/]", word) else word for word in line.split()[:3]]

    printed = [begins(line) for line in outcomes[len(LINES) + number].said.splitlines()]
    for line in SHOWN[number][1]:
        if not line.startswith(("...", "extract: ")):  # progress, which a stand-in is too quick for
            assert begins(line) in printed, line


@pytest.mark.slow
@pytest.mark.parametrize("line", NOT_RUN)
def test_an_example_that_takes_long_does_what_it_says(line: str, tmp_path: Path) -> None:
    expect_done(run(line, tmp_path))


def has_form(line: str, named: str) -> bool:
    """Whether a line has the form of a command with placeholders: its words, those in capitals filled in, and more."""
    words = []
    for word in named.split():
        one_of = "|".join(map(re.escape, word.split("|")))
        words.append(r"\S+( \S+)*" if word.endswith("...") else r"\S+" if word.isupper() else f"({one_of})")
    return re.fullmatch(" ".join(words) + "( .*)?", line) is not None


@pytest.mark.parametrize("named", NAMED)
def test_a_command_that_the_text_names_can_be_typed(named: str) -> None:
    check_named(named)


def check_named(named: str) -> None:
    """Read a command as the command line reads it."""
    if is_name_alone(named):
        return
    assert named in {*FORMS, *TYPED} or not re.search(r" [A-Z][A-Z_]*\b", named), f"say in FORMS how to fill in {named}"
    if named.startswith("mgcli --"):  # whose options act as soon as they are read
        assert named.split()[1] in [name for each in ROOT_COMMAND.params for name in each.opts], "No such option"
    else:
        parsed(to_type(named))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("mgcli extrakt --modality video", "No such command"),
        ("mgcli cache explane", "No such command"),
        ("mgcli cach", "No such command"),
        ("mgcli extract --modality video --shards 0/8", "No such option"),
        ("mgcli fuse-train --task gesture --seeds many", "valid integer"),
        ("mgcli fuse-train --task gesture --seeds 0", "greater than or equal to 1"),
        ("mgcli weights import file.pt", "Missing parameter"),
        ("mgcli --show-completions", "No such option"),
        ("mgcli view CLIP --run RUN", "say in FORMS"),
    ],
)
def test_a_broken_command_in_the_text_would_be_found(broken: str, said: str) -> None:
    (named,) = named_commands(f"Some text with `{broken}` in it.\n```\n$ `mgcli in a block`\n```\n")
    with pytest.raises(Exception, match=said):
        check_named(named)


def test_an_example_that_fails_is_a_failure(tmp_path: Path) -> None:
    done = run("mgcli evaluate runs/not-there", tmp_path)
    with pytest.raises(AssertionError, match="not-there"):
        expect_done(done)


def test_what_is_filled_in_has_the_form_that_the_text_shows() -> None:
    assert set(FORMS) | set(ONLY_READ) <= set(NAMED)
    assert [named for named, line in FORMS.items() if not has_form(line, named)] == []
    assert not has_form("mgcli cache derive a --tokens full", "mgcli cache derive NAME --tokens time|joint|pooled")


def test_the_tables_of_this_test_are_of_lines_that_are_there() -> None:
    lines = [*typed_commands(), *NEW, *(line for line, _ in SHOWN)]
    words = {word for line in lines for word in shlex.split(line)}
    assert len(SHOWN) == 4
    assert set(NOT_RUN) <= set(lines)
    assert set(SHORT) <= {shlex.split(line)[1] for line in lines}
    assert set(FILLED) <= words
    for text in (*MORE, *PLACES):
        assert any(text in line for line in lines), text


def test_the_list_of_commands_is_what_its_line_makes(tmp_path: Path) -> None:
    (line,) = [line for block in blocks("") for line in block.splitlines() if line.startswith("typer ")]
    words = [*shlex.split(line)[1:-1], str(tmp_path / "commands.md")]
    subprocess.run([sys.executable, "-m", "typer", *words], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "commands.md").read_text(encoding="utf-8") == PAGE
