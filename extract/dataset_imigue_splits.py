"""iMiGUE's published splits by video and by subject, and our own validation subjects.

Sources: the protocol PDF of the iMiGUE repository (gesture subjects and emotion videos) and the lists of the MiGA
starter kit (gesture videos, official validation); facts: imigue, sections 6 and 7. The videos of the 37 training and
35 test subjects are the split of the gestures and of the challenge's Track 3; the emotion split of 2021 is another.
"""

from __future__ import annotations

from mgcli.cache import OWN_VALIDATION

# fmt: off
TRAIN_SUBJECTS = (  # 37
    2, 4, 5, 6, 9, 10, 12, 13, 14, 15, 17, 18, 20, 21, 22, 23, 25, 28, 29, 30, 31, 35, 36, 38, 39, 41, 42, 43, 44,
    46, 47, 48, 52, 53, 59, 61, 62,
)
TEST_SUBJECTS = (  # 35
    1, 3, 7, 8, 11, 16, 19, 24, 26, 27, 32, 33, 34, 37, 40, 45, 49, 50, 51, 54, 55, 56, 57, 58, 60, 63, 64, 65, 66,
    67, 68, 69, 70, 71, 72,
)
TRAIN_VIDEOS = (  # 255, of the training subjects
    1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 22, 23, 25, 26, 27, 28, 29, 30, 31, 32, 35, 36,
    37, 38, 39, 40, 43, 45, 46, 47, 48, 49, 50, 51, 52, 53, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 68, 73,
    75, 76, 82, 83, 84, 86, 87, 89, 91, 93, 94, 95, 96, 97, 99, 100, 101, 102, 103, 104, 107, 108, 113, 115, 117,
    119, 120, 121, 122, 124, 131, 132, 134, 136, 137, 140, 141, 143, 145, 147, 149, 151, 152, 153, 157, 158, 159,
    160, 162, 164, 165, 170, 171, 172, 173, 174, 175, 176, 178, 179, 180, 181, 183, 184, 185, 186, 187, 188, 191,
    193, 195, 197, 199, 214, 216, 218, 222, 223, 225, 230, 231, 232, 233, 234, 236, 239, 240, 246, 247, 248, 249,
    250, 251, 252, 253, 254, 256, 257, 258, 259, 260, 261, 263, 264, 266, 267, 268, 269, 270, 272, 273, 275, 276,
    277, 279, 282, 283, 289, 290, 291, 293, 294, 296, 297, 298, 299, 300, 301, 302, 304, 305, 306, 308, 310, 311,
    312, 313, 314, 315, 316, 317, 319, 323, 324, 325, 328, 330, 331, 332, 333, 334, 335, 336, 337, 338, 339, 340,
    341, 342, 343, 344, 347, 348, 350, 357, 358, 359, 360, 363, 365, 366, 367, 369, 374, 376, 377, 379, 381, 382,
    386, 392, 394, 397, 399, 400, 401, 402, 403, 404, 405, 407, 408, 419, 420, 430, 433, 435,
)
TEST_VIDEOS = (  # 104, of the test subjects
    54, 67, 69, 70, 71, 72, 74, 77, 79, 85, 98, 105, 106, 109, 110, 111, 112, 114, 116, 118, 125, 126, 133, 135,
    138, 144, 148, 154, 156, 161, 163, 166, 167, 168, 169, 196, 198, 200, 201, 205, 208, 212, 213, 220, 235, 237,
    238, 241, 242, 243, 244, 262, 274, 280, 292, 303, 318, 320, 322, 327, 329, 346, 349, 355, 368, 371, 375, 378,
    380, 385, 396, 406, 410, 411, 413, 414, 415, 416, 417, 421, 423, 424, 425, 428, 429, 431, 436, 437, 438, 439,
    440, 441, 442, 443, 444, 445, 446, 447, 448, 449, 450, 451, 452, 453,
)
EMOTION_2021_TRAIN_VIDEOS = (  # 102: 51 won, 51 lost
    1, 7, 8, 11, 26, 27, 46, 47, 48, 53, 55, 57, 63, 66, 67, 74, 77, 84, 85, 86, 91, 96, 102, 103, 104, 105, 106,
    108, 109, 112, 114, 117, 124, 132, 134, 140, 148, 157, 161, 162, 163, 164, 167, 169, 170, 172, 176, 186, 196,
    216, 233, 236, 237, 239, 240, 241, 242, 243, 249, 252, 266, 290, 297, 300, 306, 310, 314, 318, 319, 320, 324,
    334, 339, 359, 360, 365, 369, 377, 381, 385, 392, 402, 407, 410, 411, 413, 414, 415, 420, 429, 433, 435, 436,
    440, 441, 445, 448, 449, 450, 451, 452, 453,
)
EMOTION_2021_TEST_VIDEOS = (  # 100: 50 won, 50 lost
    9, 10, 12, 16, 28, 35, 43, 49, 50, 51, 52, 54, 56, 60, 71, 72, 83, 89, 95, 100, 107, 110, 111, 121, 131, 136,
    144, 145, 165, 166, 168, 171, 174, 179, 185, 191, 193, 212, 220, 223, 230, 231, 232, 234, 235, 238, 244, 246,
    254, 258, 262, 263, 268, 270, 276, 280, 282, 303, 304, 311, 312, 313, 315, 316, 317, 322, 323, 325, 327, 328,
    329, 333, 337, 341, 343, 344, 363, 374, 400, 401, 403, 404, 405, 406, 408, 416, 417, 419, 421, 428, 430, 431,
    437, 438, 439, 442, 443, 444, 446, 447,
)
# fmt: on

MIGA_VALIDATION_VIDEOS = (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)  # their five subjects are also in the challenge's training
VIDEOS_WITHOUT_SKELETON = (218, 319, 347, 348)  # usable; all in training; the challenge's Track 1 leaves them out
MIGA_CLIPS_OF_453 = 32  # the release and its scores end with 0453_31; the full release has one clip more

# A fifth of the 37 training subjects, then of the 35 others, who train in some emotion protocols;
# `draw_subjects` of each gives them again.
OWN_VALIDATION_SUBJECTS = (17, 23, 25, 31, 36, 44, 48, 32, 45, 49, 55, 57, 66, 67)

VIDEOS = tuple(sorted(TRAIN_VIDEOS + TEST_VIDEOS))  # all 359

_GESTURE = {"train": TRAIN_VIDEOS, "test": TEST_VIDEOS}
_MIGA = {
    "train": tuple(video for video in TRAIN_VIDEOS if video not in MIGA_VALIDATION_VIDEOS),
    "val": MIGA_VALIDATION_VIDEOS,
    "test": TEST_VIDEOS,
}
_EMOTION_2021 = {"train": EMOTION_2021_TRAIN_VIDEOS, "test": EMOTION_2021_TEST_VIDEOS}
_SPLITS: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {  # protocol -> task -> split -> videos
    "miga-2025": {"gesture": _MIGA, "emotion": _MIGA},
    "miga-track1": {"gesture": _MIGA},
    "miga-track3": {"emotion": _MIGA},
    "imigue-gesture": {"gesture": _GESTURE},
    "imigue-emotion-2021": {"emotion": _EMOTION_2021},
}
_WITH_OUR_VALIDATION = tuple(name + OWN_VALIDATION for name in _SPLITS)
# The usual one first: both tasks of the challenge, with validation subjects that are not in training.
IMIGUE_PROTOCOLS = (_WITH_OUR_VALIDATION[0], *_SPLITS, *_WITH_OUR_VALIDATION[1:])


def split_of_videos(protocol: str, task: str) -> dict[int, str]:
    """Video -> split as published, for the clips of a task; empty where the protocol has no such task."""
    splits = _SPLITS[protocol.removesuffix(OWN_VALIDATION)].get(task, {})
    return {video: split for split, videos in splits.items() for video in videos}
