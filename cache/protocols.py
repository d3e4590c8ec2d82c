"""Published protocols by name, and the classes of their data sets: what every room must know of a split.

The splits themselves are decided in `extract/dataset_*.py` and written into the clip tables; here stands how far a
split may be trusted, and how its classes are called.
"""

from __future__ import annotations

from dataclasses import dataclass

OWN_VALIDATION = "-subject-val"  # ending of a protocol whose validation subjects we drew from the training subjects
_TRAIN_TEST, _TRAIN_VAL = ("train", "test"), ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A published split of a data set, or one of ours that differs from it in its validation clips only."""

    name: str
    dataset: str  # whose classes the gesture ids are: a key of CLASS_NAMES
    tasks: tuple[str, ...]
    about: str  # one line for people
    own_validation: bool = False  # True: its validation subjects are ours, so none of them may be in training
    shared_subjects: tuple[tuple[str, str], ...] = ()  # pairs of splits that share subjects as it was published


def _with_own_validation(*published: Protocol) -> dict[str, Protocol]:
    """Each protocol as it was published and, behind it, with our validation subjects."""
    found: dict[str, Protocol] = {}
    for each in published:
        ours = Protocol(
            name=each.name + OWN_VALIDATION,
            dataset=each.dataset,
            tasks=each.tasks,
            about=f"{each.about}; validation subjects drawn by us from the training subjects",
            own_validation=True,
            shared_subjects=(_TRAIN_TEST, ("val", "test")) if _TRAIN_TEST in each.shared_subjects else (),
        )
        found |= {each.name: each, ours.name: ours}
    return found


PROTOCOLS: dict[str, Protocol] = _with_own_validation(
    Protocol(
        name="imigue-gesture",
        dataset="imigue",
        tasks=("gesture",),
        about="iMiGUE, CVPR 2021: gestures, 37 training and 35 test subjects",
    ),
    Protocol(
        name="miga-track1",
        dataset="imigue",
        tasks=("gesture",),
        about="MiGA challenge, Track 1: gestures, 241 training, 10 validation, 104 test videos",
        shared_subjects=(_TRAIN_VAL,),  # its five validation subjects (facts: imigue, section 6)
    ),
    Protocol(
        name="imigue-emotion-2021",
        dataset="imigue",
        tasks=("emotion",),
        about="iMiGUE, CVPR 2021: win or lose, 102 training and 100 test interviews",
        shared_subjects=(_TRAIN_TEST,),  # 39 subjects (facts: imigue, section 7)
    ),
    Protocol(
        name="miga-track3",
        dataset="imigue",
        tasks=("emotion",),
        about="MiGA challenge 2025, Track 3: win or lose, 245 training, 10 validation, 104 test interviews",
        shared_subjects=(_TRAIN_VAL,),  # its five validation subjects (facts: imigue, section 6)
    ),
    Protocol(
        name="miga-2025",
        dataset="imigue",
        tasks=("gesture", "emotion"),
        about="MiGA challenge 2025, Tracks 1 and 3 in one table",
        shared_subjects=(_TRAIN_VAL,),  # its five validation subjects (facts: imigue, section 6)
    ),
    Protocol(
        name="smg-gesture",
        dataset="smg",
        tasks=("gesture",),
        about="SMG, IJCV 2023: gestures, subjects 1-35 for training and 36-40 for test",
    ),
)

CLASS_NAMES: dict[str, tuple[str, ...]] = {  # data set -> names of its gesture ids, from 0
    "imigue": (  # iMiGUE, Fig. 2: class id = C-number - 1 (facts: imigue, section 5)
        "Turtle neck",
        "Bulging face, deep breath",
        "Touching hat",
        "Touching or scratching head",
        "Touching or scratching forehead",
        "Covering face",
        "Rubbing eyes",
        "Touching or scratching facial parts",
        "Touching ears",
        "Biting nails",
        "Touching jaw",
        "Touching or scratching neck",
        "Playing or adjusting hair",
        "Buckle button, pulling shirt collar, adjusting tie",
        "Touching or covering suprasternal notch",
        "Scratching back",
        "Folding arms",
        "Dustoffing clothes",
        "Putting arms behind body",
        "Moving torso",
        "Sitting straightly",
        "Scratching or touching arms",
        "Rubbing or holding hands",
        "Crossing fingers",
        "Minaret gesture",
        "Playing or manipulating objects",
        "Hold back arms",
        "Head up",
        "Pressing lips",
        "Arms akimbo",
        "Shaking shoulders",
        "Illustrative body language",
    ),
    "smg": (  # a third party's label table; id 6 is doubtful (facts: smg, Classes)
        "Turtling neck and shoulder",
        "Rubbing eyes and forehead",
        "Folding arms",
        "Touching or covering suprasternal notch",
        "Moving legs",
        "Touching or scratching neck",
        "Folding arms behind body",
        "Rubbing hands and crossing fingers",
        "Arms akimbo",
        "Crossing legs",
        "Scratching some part of body",
        "Scratching or touching facial parts other than eyes",
        "Playing or adjusting hair",
        "Holding arms",
        "Pulling shirt collar",
        "Playing with jewelry, manipulating other objects",
        "Illustrative hand gestures",
    ),
}

CLASS_GROUPS: dict[str, dict[str, tuple[int, ...]]] = {  # data set -> body part -> gesture ids
    "imigue": {
        "body": (19, 20, 30),
        "head": (0, 1, 27, 28),
        "hand": (21, 22, 23, 24, 25, 26, 29),
        "body-hand": (11, 12, 13, 14, 15, 16, 17, 18),
        "head-hand": (2, 3, 4, 5, 6, 7, 8, 9, 10),
        "illustrative": (31,),
    },
}


def class_name(label: str, protocol: str | None) -> str:
    """What a gesture id is called in a protocol's data set; the label itself where it is no id of a known one."""
    names = CLASS_NAMES.get(PROTOCOLS[protocol].dataset, ()) if protocol in PROTOCOLS else ()
    return names[int(label)] if label.isdigit() and int(label) < len(names) else label
