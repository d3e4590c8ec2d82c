"""Freed memory stays with a command and with the processes that it starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")

# an arena of its own for each thread: heaps of those go back whole
WORK = """
import resource, threading
import numpy as np

def work():
    for _ in range(20):
        kept = [np.ones(3 << 20, np.uint8) for _ in range(32)]  # 96 MB, freed in each round

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = faults()
work()
print(faults() - before)
thread = threading.Thread(target=work)
before = faults()
thread.start()
thread.join()
print(faults() - before)
"""
KEEP = "from mgcli.cache.freed_memory import keep_freed_memory; keep_freed_memory()\n"
ROUND_PAGES = (96 << 20) // os.sysconf("SC_PAGESIZE")


def page_faults(program: str, **environ: str) -> list[int]:
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | environ, capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is tuned on Linux")
def test_memory_is_taken_from_the_system_once() -> None:
    usual, kept = page_faults(WORK), page_faults(KEEP + WORK)
    assert min(usual) > 5 * ROUND_PAGES  # without, most rounds take it anew
    assert max(kept) < 3 * ROUND_PAGES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is tuned on Linux")
def test_a_process_that_is_started_keeps_it_too() -> None:
    child = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {WORK!r}]).returncode)"
    assert max(page_faults(KEEP + child)) < 3 * ROUND_PAGES


@pytest.mark.parametrize(
    "tuned", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}]
)
def test_what_a_user_has_tuned_stays(tuned: dict[str, str]) -> None:
    program = KEEP + "import os; print(*(int(each.startswith('MALLOC_')) for each in os.environ))"
    assert sum(page_faults(program, **tuned)) == sum(name.startswith("MALLOC_") for name in tuned)
