"""What `mgcli doctor` looks at: the form of a check, and those of the installation and this machine."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PACKAGE = "mgcli"
FEWEST_OPEN_FILES = 1024  # a cache of many parts, and the pipes of decoders, want about so many at once
_FOR_DEVELOPERS = "dev"  # an extra that users have no need of

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    do: str = ""  # what to do next; may stand beside "ok" where there is a choice

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


def checks_text(checks: Iterable[Check]) -> str:
    """One line a check, and what to do in a line below."""
    checks = list(checks)
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<7}  {check.name:<{width}}  {check.found}")
        if check.do:
            lines.append(f"{'':7}  {'':<{width}}  -> {check.do}")
    return "\n".join(lines)


def installation_checks() -> list[Check]:
    """Python, the packages that mgcli needs, and its optional parts, by the package's own metadata."""
    needed = [Requirement(text) for text in requires(PACKAGE) or []]
    extras = [name for name in metadata(PACKAGE).get_all("Provides-Extra") or [] if name != _FOR_DEVELOPERS]
    plain = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    of_extra = {
        extra: [each for each in needed if each not in plain and each.marker and each.marker.evaluate({"extra": extra})]
        for extra in extras
    }
    return [
        check_python(platform.python_version(), " ".join(metadata(PACKAGE).get_all("Requires-Python") or [])),
        check_packages(plain),
        *(check_extra(extra, of_it) for extra, of_it in of_extra.items()),
    ]


def check_python(here: str, wanted: str) -> Check:
    """Whether Python is new enough."""
    if SpecifierSet(wanted).contains(here, prereleases=True):
        return Check(name="Python", state="ok", found=here)
    return Check(
        name="Python", state="fault", found=f"{here}; mgcli needs {wanted}", do="python3.11 -m venv .venv, or newer"
    )


def check_packages(needed: Iterable[Requirement]) -> Check:
    """Whether the packages that mgcli cannot do without are here, in versions that it was made for."""
    needed = list(needed)
    wrong = {each: text for each in needed if (text := _what_is_wrong(each))}
    if not wrong:
        return Check(name="packages", state="ok", found=f"mgcli {version(PACKAGE)} and {len(needed)} that it needs")
    quoted = " ".join(f"'{each.name}{each.specifier}'" for each in wrong)
    return Check(name="packages", state="fault", found="; ".join(wrong.values()), do=f"pip install {quoted}")


def check_extra(extra: str, needed: Iterable[Requirement]) -> Check:
    """Whether an optional part of mgcli is installed; without it is fine, half of it is not."""
    needed = list(needed)
    name, install = f"[{extra}]", f"pip install 'mgcli[{extra}]'"
    wrong = {each.name: text for each in needed if (text := _what_is_wrong(each))}
    if not wrong:
        return Check(name=name, state="ok", found=", ".join(f"{each.name} {version(each.name)}" for each in needed))
    if len(wrong) == len(needed):
        return Check(name=name, state="ok", found=f"not installed ({', '.join(wrong)})", do=f"if wanted: {install}")
    return Check(name=name, state="warning", found="; ".join(wrong.values()), do=install)


def check_open_files() -> Check:
    """How many files this process may have open at once."""
    try:
        import resource
    except ImportError:  # not on Windows
        return Check(name="open files", state="ok", found="no limit that can be asked for")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEWEST_OPEN_FILES:
        return Check(name="open files", state="ok", found="no limit" if soft == resource.RLIM_INFINITY else f"{soft}")
    can = hard == resource.RLIM_INFINITY or hard >= FEWEST_OPEN_FILES
    return Check(
        name="open files",
        state="warning",
        found=f"{soft} at once; a cache of many parts wants {FEWEST_OPEN_FILES}",
        do=f"ulimit -n {FEWEST_OPEN_FILES}" if can else "mgcli cache compact, so that there are fewer parts",
    )


def _what_is_wrong(needed: Requirement) -> str:
    """Why a package does not do; empty where it does."""
    try:
        here = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(here, prereleases=True):
        return ""
    return f"{needed.name} {here} is here, mgcli needs {needed.specifier}"
