"""Head, middle and tail classes: how the long tail of a label is cut into three groups.

The cuts are those of Liu et al., Large-Scale Long-Tailed Recognition in an Open World (CVPR 2019): classes with more
than 100 training clips, with 20 to 100, and with fewer than 20. The training counts of a table alone decide, so that a
protocol's groups are the same for every run on it.
"""

from __future__ import annotations

import pandas as pd

CLASS_GROUP_NAMES = ("head", "middle", "tail")
HEAD_ABOVE = 100  # training clips (Liu et al., CVPR 2019, "many-shot")
TAIL_BELOW = 20  # training clips (the same, "few-shot")


def class_group(num_train_clips: int) -> str:
    """The group of a class with so many training clips: head, middle or tail."""
    if num_train_clips > HEAD_ABOVE:
        return "head"
    return "tail" if num_train_clips < TAIL_BELOW else "middle"


def classes_by_group(table: pd.DataFrame, task: str, classes: list[str]) -> dict[str, list[str]]:
    """Group -> its classes, in the order given; a class without training clips is in the tail.

    Args:
        table: a checked clip table; the clips of split `train` count.
        task: the label column.
        classes: those to sort into groups.
    """
    counts = table.loc[table["split"] == "train", task].value_counts()
    groups: dict[str, list[str]] = {name: [] for name in CLASS_GROUP_NAMES}
    for name in classes:
        groups[class_group(int(counts.get(name, 0)))].append(name)
    return groups
