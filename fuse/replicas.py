"""Many heads of one architecture trained together: each as it would be alone, all of them in every step.

A stack computes what each head alone would: in double precision the logits agreed to 4e-15 after a whole training
(mixup 0.5). In float32 it rounds otherwise:

- 16 seeds of JapaneseVowels and 16 of BasicMotions (aeon, two modalities by channel) by default settings, and 14 of
  JapaneseVowels with settings of all kinds, were stopped at the same epochs, told the same of every test clip, and had
  log-probabilities within 3e-4 of the largest;
- a learning rate of 3e-3 amplifies rounding: two such were 0.01 and 0.03 apart, with the same epochs and answers;
- most of all where clips say little of their class: of 16 on 100 such clips two, with that rate, were .2 and .9 apart,
  and one of them took fewer epochs; 99.9 % of the answers were the same. With the first weights of a single head
  moved by 6e-8, the logits of such trainings end as far apart.

What a replica becomes hangs on no other: on a CPU, with one thread and clips of one length, those 16 were to the bit
what each is in a stack of its own.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import torch

from mgcli.cache import warn
from mgcli.fuse.data import ClipTensors
from mgcli.fuse.loop import Fitted, Replica, Training
from mgcli.fuse.stack_vmap import VmapStack

MOST_REPLICAS = 64  # a stack of more fills no GPU better, and its first run is finished later


def fit_replicas(
    replicas: Sequence[Replica], clips: ClipTensors, *, most: int = MOST_REPLICAS, say: Callable[[str], None] = warn
) -> Iterator[list[Fitted]]:
    """Train replicas in stacks, and give each after the epoch in which it ends.

    Args:
        replicas: of one architecture and batch size, with heads that `why_not_stacked` has nothing against.
        clips: all clips, on the heads' device.
        most: replicas in a stack; where the GPU has no room for them, half of them, and so on.
        say: told that the GPU is full, and why steps are not recorded on it.
    """
    alike: dict[int, list[int]] = {}
    for number, each in enumerate(replicas):
        alike.setdefault(len(each.train_rows), []).append(number)
    waiting = [numbers[i : i + most] for numbers in alike.values() for i in range(0, len(numbers), most)]
    said = False
    while waiting:
        left = waiting.pop(0)
        fresh: VmapStack | None = None
        beginnings = {number: replicas[number].generator.get_state() for number in left}
        try:
            together = [(number, replicas[number]) for number in left]
            fresh = VmapStack([each.head for _, each in together], clips.labels.device)
            for ended in Training(together, fresh, clips, say=say).run():
                yield ended
                left = [number for number in left if number not in {each.number for each in ended}]
        except torch.OutOfMemoryError:
            if len(left) == 1:
                raise
        if not left:
            continue
        if not said:
            say(f"the GPU has no room for {len(left)} trainings together; going on with fewer")
            said = True
        most = -(-len(left) // 2)
        fresh = None
        gc.collect()  # a training refers to itself
        with suppress(RuntimeError):  # older torch refuses it for good once a recording has failed
            torch.cuda.empty_cache()
        for number in left:  # from the beginning: a full GPU is found out in the first steps
            replicas[number].generator.set_state(beginnings[number])
        waiting = [part[i : i + most] for part in (left, *waiting) for i in range(0, len(part), most)]
