"""Which video goes to which worker of a run, and what becomes of those of a worker that is lost.

What counts is the cache: when a worker dies, those of its clips that no part holds go to others, whatever it had said
of them. A video that was in hand when a worker died is suspected of having killed it: the second time it is tried by a
worker of its own, and if that one dies too its clips are reported as failed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from mgcli.cache import Failure, FeatureCache
from mgcli.extract.engine import ClipKey, FileWork, Planned

MOST_DEATHS = 3  # of workers over one video, until its clips are given up


class Handout:
    """The videos of a run that no worker has yet, and the clips that have failed."""

    def __init__(self, cache: FeatureCache) -> None:
        """Start with nothing to hand out."""
        self.failures: dict[ClipKey, Failure] = {}
        self._cache = cache
        self._feature_sets: dict[str, str] = {}  # modality -> name
        self._queue: deque[FileWork] = deque()
        self._suspects: deque[FileWork] = deque()
        self._deaths: Counter[str] = Counter()  # file -> workers that died over it

    def fill(self, plan: Planned) -> None:
        """Take what there is to do; the longest first, so that none is left over at the end."""
        self._feature_sets = {each.modality: each.feature_set for each in plan.modalities}
        self._queue.extend(sorted(plan.files, key=lambda file: -file.work_s))

    @property
    def left(self) -> list[FileWork]:
        """What no worker has."""
        return [*self._queue, *self._suspects]

    def next_file(self, *, has_none: bool) -> tuple[FileWork | None, bool]:
        """The next file for a worker, and whether it must be its last.

        Args:
            has_none: the worker was given no file yet, so it may try a suspect.
        """
        if self._suspects and has_none:
            return self._suspects.popleft(), True
        return (self._queue.popleft() if self._queue else None), False

    def take_back(self, files: Sequence[FileWork], death: str) -> int:
        """Hand out again what a worker did not commit; each of its files is a suspect where it died.

        Args:
            files: all that it was given.
            death: how it died; empty where it left by itself.

        Returns:
            the number of clips that are done again.
        """
        num_back = 0
        for file in reversed(self.not_committed(files)):
            self._deaths[file.file] += bool(death)
            if self._deaths[file.file] >= MOST_DEATHS:
                reason = f"{MOST_DEATHS} workers died over {file.file}; the last one {death}"
                for key in file.clips:
                    self.failures[key] = Failure(key[1], "worker", reason)
                continue
            num_back += len(file.clips)
            if self._deaths[file.file] == MOST_DEATHS - 1:
                self._suspects.append(file)
            else:
                self._queue.appendleft(file)
        return num_back

    def not_committed(self, files: Sequence[FileWork]) -> list[FileWork]:
        """These files with those of their clips that have not failed, and that no part holds."""
        open_clips = {key: source for file in files for key, source in file.clips.items() if key not in self.failures}
        missing: set[ClipKey] = set()
        in_order = sorted(open_clips, key=_modality_and_view)
        for (modality, view), group in groupby(in_order, key=_modality_and_view):
            keys = list(group)
            feature_set = self._cache.named_set(self._feature_sets[modality])
            held = feature_set.holds([clip_id for _, clip_id, _ in keys], [open_clips[key] for key in keys], view)
            missing |= {key for key, is_held in zip(keys, held, strict=True) if not is_held}
        left = [replace(file, clips={key: file.clips[key] for key in file.clips if key in missing}) for file in files]
        return [file for file in left if file.clips]


def _modality_and_view(key: ClipKey) -> tuple[str, int]:
    return key[0], key[2]
