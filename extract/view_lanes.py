"""Lanes of the clip viewer: what goes on over a clip's time, each one a flat SVG that prints and can be read aloud."""

# Shapes: R tokens of a clip in a feature set, G times at which they lie.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from mgcli.cache import CLASS_TOKEN, TokenTrace, html_table

WIDTH, HEIGHT = 1000, 44  # of a lane, in units that stretch with the page
GAP, VOID = 0.92, 4.0  # share of its time that a bar fills; height of one without a valid token
MAX_TIMES = 400  # of a lane; more are drawn as means over equal parts of the clip
TABLE_ROWS = 60
_SAME_S = 1e-4  # tokens at times this near lie at one time


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """The tokens of a clip by time; class tokens stand apart, as they sum up a window."""

    time_s: np.ndarray  # (G,)
    norm: np.ndarray  # (G,) mean over the valid tokens of a time
    valid: np.ndarray  # (G,) bool, whether any token is
    attention: np.ndarray | None  # (G,) sum over the tokens of a time
    uniform: float  # attention that a time has on average
    class_attention: float | None  # to all class tokens together; None where there are none


def course_of(trace: TokenTrace, attention: np.ndarray | None) -> Course:
    """Tokens brought to times.

    Args:
        trace: the tokens.
        attention: (R,) to each of them.
    """
    at_time = trace.place != CLASS_TOKEN  # (R,)
    if not at_time.any():  # a layout of class tokens alone
        at_time = np.ones_like(at_time)
    group, time_s = _by_time(trace.time_s[at_time])
    count = np.bincount(group, weights=trace.valid[at_time], minlength=len(time_s))
    norm = np.bincount(group, weights=trace.norm[at_time], minlength=len(time_s)) / np.maximum(count, 1)
    summed, uniform, of_class = None, 0.0, None
    if attention is not None:
        summed = np.bincount(group, weights=attention[at_time], minlength=len(time_s))
        uniform = float(trace.valid[at_time].sum() / max(1, trace.valid.sum()) / max(1, (count > 0).sum()))
        of_class = float(attention[~at_time].sum()) if not at_time.all() else None
    return Course(
        time_s=time_s, norm=norm, valid=count > 0, attention=summed, uniform=uniform, class_attention=of_class
    )


def attention_lane(name: str, course: Course, start_s: float, end_s: float) -> Markup:
    """A lane of the attention over time; a dashed line shows what each time would get from a head without a preference.

    Args:
        name: what is attended to, for people.
        course: with attention.
        start_s: of the clip.
        end_s: of the clip.
    """
    assert course.attention is not None
    top = max(float(course.attention.max(initial=0.0)), 1.5 * course.uniform, 1e-9)
    level = HEIGHT * (1 - course.uniform / top)
    line = Markup('<line class="uniform" x1="0" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(WIDTH, level, level)
    best = int(course.attention.argmax())
    said = f"highest {course.attention[best]:.3f} at {course.time_s[best]:.2f} s; uniform would be {course.uniform:.3f}"
    if course.class_attention is not None:
        said += f"; class tokens get {course.class_attention:.3f}"
    texts = [f"{each:.3f}, {each / max(course.uniform, 1e-9):.2f} × uniform" for each in course.attention]
    bars = _bars(course.time_s, course.attention / top, course.valid, start_s, end_s)
    return _lane(name, "attention", said, bars + line, texts, course.time_s)


def norm_lane(name: str, course: Course, start_s: float, end_s: float) -> Markup:
    """A lane of the tokens' norms over time, from 0."""
    top = max(float(course.norm.max(initial=0.0)), 1e-9)
    there = course.norm[course.valid]
    said = f"{there.min():.3g} to {there.max():.3g}" if len(there) else "no valid token"
    if not course.valid.all():
        said += f"; {int((~course.valid).sum())} of {len(course.valid)} times without a valid token"
    texts = [f"{norm:.3g}" if valid else "not valid" for norm, valid in zip(course.norm, course.valid, strict=True)]
    bars = _bars(course.time_s, course.norm / top, course.valid, start_s, end_s)
    return _lane(name, "norm", said, bars, texts, course.time_s)


def seen_lane(time_s: np.ndarray, seen: Sequence[bool], start_s: float, end_s: float) -> Markup:
    """A lane of the shown frames in which a face was seen."""
    there = np.array(seen, dtype=bool)
    bars = _bars(time_s, np.where(there, 0.5, 0.0), there, start_s, end_s)
    said = f"in {int(there.sum())} of {len(there)} shown frames"
    return _lane("Face seen", "seen", said, bars, ["seen" if each else "not seen" for each in there], time_s)


def course_table(caption: str, course: Course) -> Markup:
    """The same as text."""
    header = ["time, s", "norm", "attention"] if course.attention is not None else ["time, s", "norm"]
    rows: list[list[str]] = []
    for place in range(min(len(course.time_s), TABLE_ROWS)):
        row = [f"{course.time_s[place]:.2f}", f"{course.norm[place]:.4g}" if course.valid[place] else "not valid"]
        rows.append(row if course.attention is None else [*row, f"{course.attention[place]:.4f}"])
    if len(course.time_s) > TABLE_ROWS:
        caption += f"; the first {TABLE_ROWS} of {len(course.time_s):,} times"
    return html_table(header, rows, caption=caption)


def _by_time(time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group of each token, (R,), and the (G,) times of the groups, ascending."""
    order = np.argsort(time_s, kind="stable")
    ordered = time_s[order]
    new = np.concatenate([[False], np.diff(ordered) > _SAME_S])
    group = np.empty(len(time_s), dtype=np.int64)
    group[order] = np.cumsum(new)
    times = ordered[np.concatenate([[True], new[1:]])] if len(ordered) else ordered
    if len(times) > MAX_TIMES:
        part = np.arange(len(times)) * MAX_TIMES // len(times)  # (G,) -> equal numbers of times
        group, times = part[group], np.bincount(part, weights=times) / np.bincount(part)
    return group, times


def _bars(time_s: np.ndarray, height: np.ndarray, valid: np.ndarray, start_s: float, end_s: float) -> Markup:
    """A bar for each time, half-way to the next ones; a low one of another colour where no token is valid."""
    if not len(time_s):
        return Markup("")
    between = (time_s[1:] + time_s[:-1]) / 2
    first, last = (time_s[0] - np.diff(time_s[:2]) / 2, time_s[-1] + np.diff(time_s[-2:]) / 2)
    edges = np.concatenate([first if len(first) else [start_s], between, last if len(last) else [end_s]])
    edges = WIDTH * (np.clip(edges, start_s, end_s) - start_s) / max(end_s - start_s, 1e-9)
    tall = np.where(valid, HEIGHT * height, VOID)
    bar = Markup('<rect {}x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    return Markup("").join(
        bar.format(Markup("" if there else 'class="void" '), left, HEIGHT - up, max(GAP * (right - left), 1.0), up)
        for left, right, up, there in zip(edges[:-1], edges[1:], tall, valid, strict=True)
    )


def _lane(name: str, kind: str, said: str, drawing: Markup, texts: Sequence[str], time_s: np.ndarray) -> Markup:
    return Markup(
        '<figure class="lane {kind}" data-times="{times}" data-texts="{texts}"><figcaption><span>{name}</span>'
        '<span class="now" aria-hidden="true"></span></figcaption>'
        '<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{name}: {said}">'
        "{drawing}</svg></figure>"
    ).format(
        kind=kind,
        times=" ".join(f"{each:.3f}" for each in time_s),
        texts="|".join(texts),
        name=name,
        said=said,
        width=WIDTH,
        height=HEIGHT,
        drawing=drawing,
    )
