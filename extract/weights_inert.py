"""A torch checkpoint read with everything in it but tensors and plain values replaced by stand-ins that do nothing.

Released checkpoints often hold more than tensors: an optimiser, its schedule, the settings of the training. The
classes of those are not needed, so nothing of them is imported and nothing that the file says is called: torch's own
restricted reader (`weights_only=True`) is given a stand-in for every name of another package. Names of the
standard library stay refused, as they have no place in a checkpoint: os.system or eval mean harm.
"""

from __future__ import annotations

import pickletools
import struct
import sys
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError

# what a damaged or malicious file makes its readers raise, besides pickle.UnpicklingError
READ_ERRORS = (
    *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, OverflowError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error, SafetensorError),
)
_ZIP_START = b"PK\x03\x04"
_LEGACY_PICKLES = 4  # magic number, protocol, system, content; then the tensors' bytes


class _StandIn:
    """Takes the place of an object of an unknown class: accepts whatever it is given and keeps none of it."""

    def __new__(cls, *_: object, **__: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _empty_dict(*_: object) -> dict[Any, Any]:
    """Takes the place of dict-like classes, as entries are written into these one by one."""
    return {}


_PLAIN_CLASSES: dict[str, Any] = {  # met in optimisers and settings; these, too, are never called
    "argparse.Namespace": _StandIn,
    "builtins.dict": _empty_dict,
    "collections.defaultdict": _empty_dict,
    "pathlib.PosixPath": _StandIn,
}


def read_inert(path: Path) -> Any:
    """What a torch checkpoint holds, with stand-ins for the objects of other packages.

    Raises:
        pickle.UnpicklingError: it names functions or classes of the standard library, or is damaged.
        READ_ERRORS: it is damaged, or no checkpoint.
    """
    is_zip = _is_zip(path)
    names = {name for name in _global_names(path, is_zip) if name.partition(".")[0] not in sys.stdlib_module_names}
    stand_ins = [(_StandIn, name) for name in names] + [(kind, name) for name, kind in _PLAIN_CLASSES.items()]
    with torch.serialization.safe_globals(stand_ins):  # names that torch knows keep torch's meaning
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip)


def _is_zip(path: Path) -> bool:
    """Whether torch would take it for a zip file, by its first bytes; older checkpoints are bare pickles."""
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def _global_names(path: Path, is_zip: bool) -> set[str]:
    """`module.name` of everything that the checkpoint's pickle would import, found without unpickling it."""
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            records = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            if not records:
                return set()
            with archive.open(min(records, key=len)) as file:
                return _names_in_pickles(file, 1)
    with path.open("rb") as file:
        return _names_in_pickles(file, _LEGACY_PICKLES)


def _names_in_pickles(file: IO[bytes], count: int) -> set[str]:
    """Those of the first pickles of a file; of a damaged one, those up to there, and its reader says the rest."""
    names = set()
    with suppress(ValueError, EOFError):
        for _ in range(count):
            for operation, value, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    names.add(str(value).replace(" ", ".", 1))
    return names
