"""What a user's own head is made of: its source file, and the files beside it that this one imports, and so on."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path

_INSTALLED = {"site-packages", "dist-packages"}


def source_hash(kind: type) -> str:
    """Of the source files of a class; empty where there are none, as for one typed in a notebook.

    Only files at or below the folder count from which the class's own package or module was imported; of an installed
    one only those of its own package, as others are beside it.
    """
    stands_in = inspect.getsourcefile(kind)
    if not stands_in:
        return ""
    own = Path(stands_in).resolve()
    depth = kind.__module__.count(".")
    root = own.parents[depth]  # where `package.module` was found
    inside = root / kind.__module__.split(".")[0] if _INSTALLED & set(root.parts) else root
    packages = [folder / "__init__.py" for folder in own.parents[:depth]]  # importing a.b runs a, too
    found = {each: each.read_bytes() for each in (own, *packages) if each.is_file()}
    waiting = list(found)
    while waiting:
        file = waiting.pop()
        for each in _imported(file, found[file], root):
            if each not in found and inside in each.parents:
                found[each] = each.read_bytes()
                waiting.append(each)
    content = hashlib.sha256()
    for path in sorted(found):
        content.update(str(path.relative_to(root)).encode("utf-8", "surrogateescape") + b"\0" + found[path])
    return content.hexdigest()


def _imported(file: Path, source: bytes, root: Path) -> Iterator[Path]:
    """Files that a file may import, of those that are there."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # of a file that is imported in some cases only, and not in ours
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(root, each.name) for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = root if node.level == 0 else file.parents[node.level - 1]
            module = f"{node.module}." if node.module else ""
            names = [(folder, node.module or ""), *((folder, f"{module}{each.name}") for each in node.names)]
        else:
            continue
        for folder, name in names:
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                place = folder.joinpath(*parts[:depth])
                for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
                    if name and path.is_file():
                        yield path.resolve()
