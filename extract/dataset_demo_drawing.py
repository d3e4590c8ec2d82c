"""Draw the demo data set's interviewees: how they look, how they move, their pictures, joints and faces.

A picture is drawn from the visible signs alone, and the joints from the hidden hands and the motion alone, so
that neither can give away what only the other shows. Both follow one motion, so the joints fit the picture.
"""

# Shapes: T frames, H height, W width, V joints, P points of a shape.
# Lengths of a body are in shoulder widths, of a head in half its height; x right and y down, as in a picture.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

FPS = 25
WIDTH_PX, HEIGHT_PX = 320, 240
NUM_JOINTS = 22
# Joints as in iMiGUE's upper body (facts: imigue, section 4): nose, neck; right shoulder, elbow, wrist; the left
# ones; right and left eye; right and left ear; left thumb to little finger; the right ones. Right is the person's.

_SCALE = 2  # pictures are drawn twice as large and averaged down, which smooths the edges
_HEAD = 0.34  # half the height of a head
_EYE_X, _EYE_Y, _NOSE_Y = 0.31, -0.10, 0.18
_MOUTH_X, _MOUTH_Y, _CORNER_LIFT = 0.36, 0.50, 0.08
_CIRCLE = np.stack([f(np.arange(26) * 2 * np.pi / 26) for f in (np.cos, np.sin)], axis=1)
_INK = (32, 24, 24)
_ROSY, _BLUE = (226, 52, 60), (70, 110, 150)  # the face turns this colour in a smile, in a frown

Colour = tuple[int, int, int]
_SKINS = ((246, 214, 189), (232, 190, 160), (214, 168, 132), (188, 138, 104), (150, 106, 78), (120, 84, 62))
_HAIRS = ((40, 30, 26), (78, 52, 34), (120, 84, 50), (176, 136, 84), (96, 92, 90))
_SHIRTS = ((52, 58, 74), (70, 48, 52), (44, 70, 60), (84, 80, 88), (88, 84, 60), (60, 62, 110))


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where the picture is cut."""

    shoulder_px: float  # shoulder width of a person of medium size
    neck_y_px: float
    desk_y_px: int  # top edge of the desk; everything of the person below it is hidden


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What stays the same in all pictures of one person: looks, build, place; colours under the room's light."""

    skin: Colour
    hair: Colour
    shirt: Colour
    wall: Colour
    logo: Colour
    desk: Colour
    long_hair: bool
    build: float  # size against the medium
    head_width: float
    offset_x_px: float
    noise: float  # standard deviation of the camera noise, in grey levels


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Where a body is in each frame; each array has T rows."""

    neck: np.ndarray  # (T, 2) pixels
    tilt: np.ndarray  # (T,) radians, of the head
    turn: np.ndarray  # (T,) sideways shift of the face on the head
    shrug: np.ndarray  # (T,) of both shoulders
    blink: np.ndarray  # (T,) bool
    unit_px: float  # shoulder width


@dataclass(frozen=True, kw_only=True)
class VisibleSigns:
    """What only the picture shows, in each frame, (T,) in [0, 1]; smile in [-1, 1], where -1 is a frown."""

    bulge: np.ndarray
    press: np.ndarray
    smile: np.ndarray
    striped_banner: bool | None = None  # None: the desk front is bare


def draw_subject(rng: np.random.Generator) -> Subject:
    """A person and a room at random."""
    light = rng.uniform(0.93, 1.07)
    colours = {
        "skin": _SKINS[rng.integers(len(_SKINS))],
        "hair": _HAIRS[rng.integers(len(_HAIRS))],
        "shirt": _SHIRTS[rng.integers(len(_SHIRTS))],
        "wall": _vary(rng, (52, 82, 128)),
        "logo": _vary(rng, (128, 150, 178)),
        "desk": _vary(rng, (96, 82, 70)),
    }
    return Subject(
        **{name: _mix((0, 0, 0), colour, light) for name, colour in colours.items()},
        long_hair=bool(rng.integers(2)),
        build=rng.uniform(0.94, 1.06),
        head_width=rng.uniform(0.74, 0.82),
        offset_x_px=rng.uniform(-8, 8),
        noise=rng.uniform(1.0, 2.5),
    )


def draw_motion(rng: np.random.Generator, subject: Subject, camera: Camera, num_frames: int) -> Motion:
    """Idle motion: slow sway, breath, nods, turns and blinks."""
    unit_px = camera.shoulder_px * subject.build
    neck = np.stack([_wander(rng, num_frames, 0.03), _wander(rng, num_frames, 0.012)], axis=1) * unit_px
    neck += (WIDTH_PX / 2 + subject.offset_x_px, camera.neck_y_px)
    blink = (np.arange(num_frames) + rng.integers(60)) % rng.integers(50, 80) < 3
    return Motion(
        neck=neck,
        tilt=_wander(rng, num_frames, 0.05),
        turn=_wander(rng, num_frames, 0.03),
        shrug=_wander(rng, num_frames, 0.012),
        blink=blink,
        unit_px=unit_px,
    )


def place_joints(motion: Motion, hands: np.ndarray, subject: Subject) -> np.ndarray:
    """Joint positions in pixels, (T, V, 2), before an estimator's noise.

    Args:
        motion: the body's motion.
        hands: (T, 12, 2) hidden hands from the neck, in shoulder widths: both wrists, right one first, then
            the left and the right fingertips.
        subject: whose body it is.
    """
    eyes_and_nose = _head_to_picture(motion, _face_points(motion, smile=0))  # (T, 5, 2)
    ears = _head_to_picture(motion, np.array([(-subject.head_width, 0.0), (subject.head_width, 0.0)]))
    joints = np.empty((len(motion.neck), NUM_JOINTS, 2))
    joints[:, 0] = eyes_and_nose[:, 2]
    joints[:, 1] = motion.neck
    joints[:, 8:10] = eyes_and_nose[:, :2]
    joints[:, 10:12] = ears
    for first, side in ((2, -1.0), (5, 1.0)):
        joints[:, first] = _shoulder(motion, side)
        joints[:, first + 1] = joints[:, first] + np.array([side * 0.1, 0.4]) * motion.unit_px
    joints[:, [4, 7, *range(12, 22)]] = motion.neck[:, None] + hands * motion.unit_px
    return joints


def place_face(motion: Motion, subject: Subject, smile: np.ndarray) -> np.ndarray:
    """Face box and landmarks in pixels, (T, 14): x0 y0 x1 y1, then x y of both eyes, nose, mouth corners.

    Left in the picture comes first of the eyes and of the mouth corners.
    """
    width = subject.head_width
    edge = _head_to_picture(motion, np.array([(-width, 0), (width, 0), (0, -0.85), (0, 1)]))  # (T, 4, 2)
    landmarks = _head_to_picture(motion, _face_points(motion, smile))  # (T, 5, 2)
    return np.concatenate([edge.min(axis=1), edge.max(axis=1), landmarks.reshape(-1, 10)], axis=1)


class Painter:
    """Draws the frames of one video, one after another."""

    def __init__(
        self, subject: Subject, camera: Camera, motion: Motion, signs: VisibleSigns, rng: np.random.Generator
    ) -> None:
        self.subject, self.motion, self.signs = subject, motion, signs
        self.head_axes = _head_axes(motion)
        stage = _stage(self.subject, camera, signs.striped_banner)
        self.background = stage.reduce(_SCALE)
        reach_px = 0.85 * motion.unit_px  # nothing that moves reaches further from the middle
        middle_px = WIDTH_PX / 2 + subject.offset_x_px
        self.left_px = int(middle_px - reach_px) // 2 * 2
        right_px = int(middle_px + reach_px) // 2 * 2
        box = (self.left_px * _SCALE, 0, right_px * _SCALE, camera.desk_y_px * _SCALE)
        self.patch = stage.crop(box)  # the part where the person is, redrawn for every frame
        noise = rng.normal(0, subject.noise, (6, HEIGHT_PX, WIDTH_PX, 1))
        self.noise = noise.round().astype(np.int16)

    def paint(self, frame: int) -> np.ndarray:
        """One picture, (H, W, 3) uint8 RGB."""
        patch = self.patch.copy()
        self._paint_person(ImageDraw.Draw(patch), frame)
        picture = self.background.copy()
        picture.paste(patch.reduce(_SCALE), (self.left_px, 0))
        noisy = np.asarray(picture, dtype=np.int16) + self.noise[frame % len(self.noise)]
        return np.clip(noisy, 0, 255).astype(np.uint8)

    def _paint_person(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        subject, unit = self.subject, self.motion.unit_px
        neck, (origin, axes) = self.motion.neck[frame], self.head_axes
        flush = float(self.signs.bulge[frame])
        skin = _mix(subject.skin, (222, 40, 34), 0.75 * flush)
        skin = _mix(skin, (238, 232, 224), 0.3 * float(self.signs.press[frame]))  # blanched

        def body(points: list[tuple[float, float]], colour: Colour) -> None:
            draw.polygon(self._to_patch(neck + np.array(points) * unit), fill=colour)

        def head(points: np.ndarray, colour: Colour) -> None:
            draw.polygon(self._to_patch(origin[frame] + points @ axes[frame]), fill=colour)

        width = subject.head_width
        if subject.long_hair:
            head(_ellipse(0, 0.25, width + 0.24, 1.15), subject.hair)
        lift = float(self.motion.shrug[frame])
        sleeve = [(0.36, 0.04 + lift), (0.5, 0.09 + lift), (0.63, 0.35), (0.7, 1.2), (0.42, 1.2)]
        body([(-x, y) for x, y in sleeve], _mix(subject.shirt, _INK, 0.25))
        body(sleeve, _mix(subject.shirt, _INK, 0.25))
        chest = [(0.12, -0.08), (0.3, 0.0 + lift), (0.46, 0.07 + lift), (0.46, 1.2)]
        body([(-x, y) for x, y in chest] + chest[::-1], subject.shirt)
        body([(-0.13, -0.3), (0.13, -0.3), (0.13, 0.0), (0.0, 0.16), (-0.13, 0.0)], _mix(skin, _INK, 0.15))
        for side in (-1, 1):
            head(_ellipse(side * width, 0.02, 0.11, 0.2), _mix(skin, _INK, 0.1))
        smile = float(self.signs.smile[frame])
        skin = _mix(skin, _ROSY if smile > 0 else _BLUE, 0.7 * abs(smile))
        head(_ellipse(0, 0, width, 1.0), skin)
        if flush > 0.05:
            for side in (-1, 1):
                cheek = _ellipse(side * 0.5 * width, 0.42, (0.48 + 0.36 * flush) * width, 0.2 + 0.32 * flush)
                head(cheek, _mix(skin, (240, 40, 40), 0.25 * flush))
        head(_cap(width + 0.06, 1.08), subject.hair)
        self._paint_features(head, skin, frame)
        self._paint_microphone(draw)

    def _paint_features(self, head: Callable[[np.ndarray, Colour], None], skin: Colour, frame: int) -> None:
        signs, turn = self.signs, float(self.motion.turn[frame])
        bulge, press, smile = (float(track[frame]) for track in (signs.bulge, signs.press, signs.smile))
        lower = 0.1 * press + 0.1 * max(-smile, 0) - 0.1 * max(smile, 0) - 0.12 * bulge
        slant = 0.1 * max(-smile, 0) + 0.06 * press
        for side in (-1, 1):
            x = side * _EYE_X + turn
            if self.motion.blink[frame]:
                head(_ellipse(x, _EYE_Y, 0.15, 0.025), _mix(skin, _INK, 0.6))
            else:
                head(_ellipse(x, _EYE_Y, 0.15, 0.085 + 0.05 * bulge), (250, 250, 248))
                head(_ellipse(x + turn, _EYE_Y, 0.07, 0.075), _INK)
            inner, outer = x - side * 0.16, x + side * 0.19
            y = _EYE_Y - 0.24 + lower
            brow = [(inner, y + slant), (outer, y - slant), (outer, y - slant + 0.07), (inner, y + slant + 0.09)]
            head(np.array(brow), self.subject.hair)
        nose = [(turn - 0.03, -0.02), (turn + 0.03, -0.02), (1.6 * turn + 0.12, 0.24), (1.6 * turn - 0.12, 0.24)]
        head(np.array(nose), _mix(skin, _INK, 0.22))
        lips = _mix(skin, (150, 30, 40), 0.7)
        if bulge > 0.3:
            head(_ellipse(turn, _MOUTH_Y, 0.12, 0.11), lips)
            head(_ellipse(turn, _MOUTH_Y, 0.05, 0.05), _INK)
        elif press > 0.3:
            head(_ellipse(turn, _MOUTH_Y + 0.2, 0.3, 0.12), _mix(skin, _INK, 0.2))
            head(_ellipse(turn, _MOUTH_Y, 0.38, 0.045), _mix(lips, _INK, 0.5))
        else:
            head(_mouth(smile) + np.array([turn, 0]), lips)
            if smile > 0.3:
                teeth = _mouth(smile) * (0.8, 0.6) + np.array([turn, 0.4 * _MOUTH_Y - 0.03])
                head(teeth, (252, 250, 245))

    def _paint_microphone(self, draw: ImageDraw.ImageDraw) -> None:
        x, top = self.patch.width * 0.5 + 30 * _SCALE, self.patch.height
        draw.line([(x, top), (x - 8 * _SCALE, top - 14 * _SCALE)], fill=_INK, width=2 * _SCALE)
        ball = (x - 14 * _SCALE, top - 24 * _SCALE, x - 3 * _SCALE, top - 11 * _SCALE)
        draw.ellipse(ball, fill=(52, 52, 58))

    def _to_patch(self, points: np.ndarray) -> list[float]:
        """Points (P, 2) of the picture as the flat list that Pillow takes."""
        return ((points - (self.left_px, 0)) * _SCALE).ravel().tolist()


def _stage(subject: Subject, camera: Camera, striped_banner: bool | None) -> Image.Image:
    """Press wall and desk, without the person, at the drawing scale."""
    image = Image.new("RGB", (WIDTH_PX * _SCALE, HEIGHT_PX * _SCALE), subject.wall)
    draw = ImageDraw.Draw(image)
    for row, y in enumerate(range(12, camera.desk_y_px, 46)):
        for x in range(-52 + 36 * (row % 2), WIDTH_PX, 72):  # sponsors' plates
            draw.rounded_rectangle([c * _SCALE for c in (x, y, x + 40, y + 20)], 4 * _SCALE, fill=subject.logo)
    top = camera.desk_y_px
    draw.rectangle([0, top * _SCALE, image.width, image.height], fill=subject.desk)
    draw.rectangle([0, top * _SCALE, image.width, (top + 5) * _SCALE], fill=_mix(subject.desk, (255,) * 3, 0.5))
    if striped_banner is not None:
        plain, stripe = _mix(subject.desk, _INK, 0.6), (245, 245, 240)
        draw.rectangle([0, (top + 8) * _SCALE, image.width, image.height], fill=plain)
        if striped_banner:
            for x in range(0, WIDTH_PX, 20):
                draw.rectangle([c * _SCALE for c in (x, top + 8, x + 9, HEIGHT_PX)], fill=stripe)
    return image


def _head_axes(motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Origin (T, 2) and axes (T, 2, 2) of head coordinates in pixels: `origin + points @ axes`."""
    cos, sin = np.cos(motion.tilt), np.sin(motion.tilt)
    axes = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
    axes *= _HEAD * motion.unit_px
    return motion.neck - 1.45 * axes[:, 1], axes


def _head_to_picture(motion: Motion, points: np.ndarray) -> np.ndarray:
    """Head coordinates (P, 2) or (T, P, 2) to pixels, (T, P, 2)."""
    origin, axes = _head_axes(motion)
    return origin[:, None] + points @ axes


def _face_points(motion: Motion, smile: np.ndarray | float) -> np.ndarray:
    """Both eyes, nose and mouth corners in head coordinates, (T, 5, 2)."""
    points = np.array([(-_EYE_X, _EYE_Y), (_EYE_X, _EYE_Y), (0, _NOSE_Y), (-_MOUTH_X, _MOUTH_Y), (_MOUTH_X, _MOUTH_Y)])
    points = np.tile(points, (len(motion.turn), 1, 1))
    points[:, :, 0] += motion.turn[:, None] * (1, 1, 1.6, 1, 1)
    points[:, 3:, 1] -= _CORNER_LIFT * np.reshape(smile, (-1, 1))
    return points


def _shoulder(motion: Motion, side: float) -> np.ndarray:
    """One shoulder in pixels, (T, 2)."""
    shift = np.stack([np.full_like(motion.shrug, side * 0.5), 0.1 + motion.shrug], axis=1)
    return motion.neck + shift * motion.unit_px


def _wander(rng: np.random.Generator, num_frames: int, size: float) -> np.ndarray:
    """A slow random motion around zero, (T,): three sines of about 0.1 to 0.6 Hz."""
    time_s = np.arange(num_frames)[:, None] / FPS
    hertz, phase = rng.uniform(0.1, 0.6, 3), rng.uniform(0, 2 * np.pi, 3)
    return size * np.sin(2 * np.pi * hertz * time_s + phase).mean(axis=1) * math.sqrt(3)


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    return _CIRCLE * (radius_x, radius_y) + np.array([x, y])


def _cap(radius_x: float, radius_y: float) -> np.ndarray:
    """Hair on top of a head."""
    angle = np.linspace(np.pi * 1.03, np.pi * 1.97, 16)
    top = np.stack([radius_x * np.cos(angle), radius_y * np.sin(angle)], axis=1)
    return np.concatenate([top, [(0.55 * radius_x, -0.55), (-0.1, -0.62), (-0.6 * radius_x, -0.5)]])


def _mouth(smile: float) -> np.ndarray:
    """A crescent, corners up for a smile (open) and down for a frown."""
    x = np.linspace(-_MOUTH_X, _MOUTH_X, 9)
    bend = 1 - (x / _MOUTH_X) ** 2
    corner_y = _MOUTH_Y - _CORNER_LIFT * smile
    upper = corner_y + (0.04 * smile - 0.03) * bend if smile > 0 else corner_y + 0.26 * smile * bend
    lower = corner_y + (0.3 * smile + 0.05) * bend if smile > 0 else upper + 0.1 * bend + 0.02
    return np.concatenate([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])


def _vary(rng: np.random.Generator, colour: Colour) -> Colour:
    red, green, blue = (int(np.clip(c + rng.integers(-14, 15), 0, 255)) for c in colour)
    return red, green, blue


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (min(round(a + (b - a) * share), 255) for a, b in zip(colour, other, strict=True))
    return red, green, blue
