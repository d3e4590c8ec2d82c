"""The house: which folder may import which, what is packed, what stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"cache": {"cache"}, "extract": {"extract", "cache"}, "fuse": {"fuse", "cache"}}


def imported_modules(file: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, and those named in its tables."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write `from mgcli...`, not a relative import"
            found.add(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"^(mgcli\.[\w.]+):\w+$", node.value))
    return found


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_flow_one_way(folder: str) -> None:
    for file in (ROOT / folder).glob("*.py"):
        rooms = {name.split(".")[1] for name in imported_modules(file) if name.startswith("mgcli.")}
        assert rooms <= MAY_IMPORT[folder], f"{file.name} imports from {rooms - MAY_IMPORT[folder]}"


def test_cache_never_imports_torch() -> None:
    for file in (ROOT / "cache").glob("*.py"):
        packages = {name.split(".")[0] for name in imported_modules(file)}
        assert packages.isdisjoint({"torch", "torchvision", "timm"}), file.name


def test_other_folders_import_only_the_public_names_of_cache() -> None:
    open_to_commands = {"mgcli.cache.console", "mgcli.cache.completion"}
    for folder in ("extract", "fuse"):
        for file in (ROOT / folder).glob("*.py"):
            inner = {name for name in imported_modules(file) if name.startswith("mgcli.cache.")}
            inner -= open_to_commands if file.name.startswith("commands") else set()
            assert not inner, f"{folder}/{file.name} reaches into {inner}"


def test_every_folder_with_code_is_packed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = set(settings["tool"]["setuptools"]["packages"])
    folders = {f"mgcli.{file.parent.name}" for file in ROOT.glob("*/__init__.py")}
    assert packed == {"mgcli", *folders}


def test_the_root_holds_what_was_agreed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.splitlines()}
    agreed = {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "cli.py", "tests"}
    agreed |= {"extract", "fuse", "cache"}
    assert {name for name in top if not name.startswith(".")} <= agreed


def test_help_is_light() -> None:
    code = (
        "import sys\n"
        "from mgcli.cli import main\n"
        "sys.argv = ['mgcli', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'h5py', 'zarr', 'av'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
