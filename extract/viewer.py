"""The clip viewer of a page: frames, skeleton, face, token norms and attention of a clip on one time line.

`viewer.js` moves them together, `viewer.css` dresses them; what does not move is HTML and SVG, so that it can be
printed and read aloud.
"""

# Shapes: R tokens of a clip in a feature set, G times at which they lie, P places, T shown moments.

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from mgcli.cache import (
    AbsentTokens,
    FeatureSpec,
    Section,
    TokenTrace,
    html_data,
    html_details,
    html_table,
    html_warnings,
    page_text,
)
from mgcli.extract.skeleton_layouts import LayoutError, joint_layout
from mgcli.extract.view_joined import Answer, ViewedClip
from mgcli.extract.view_lanes import attention_lane, course_of, course_table, norm_lane, seen_lane
from mgcli.extract.view_media import ClipMedia

SHOWN_CLASSES = 5
MAX_MAPS = 64  # times at which a map over the picture is kept; of more, every so manyth
STANDS_OUT = 3.0  # times the mean over all places: what stands out so far is painted as strongly as may be


def viewer_section(
    clips: Sequence[ViewedClip], *, anchor: str = "clips", title: str = "Clips", about: str = ""
) -> Section:
    """A section with a viewer for each clip.

    Args:
        clips: in their order.
        anchor: of the section; no two sections of a page share one.
        title: its heading.
        about: a paragraph above the clips.
    """
    hows = dict.fromkeys(clip.answer.how for clip in clips if clip.answer is not None)
    lead = [text for text in (about, *(f"{how[:1].upper()}{how[1:]}." for how in hows)) if text]
    parts = [Markup("<p>{}</p>").format(text) for text in lead]
    parts += [_viewer(f"{anchor}-{number}", clip) for number, clip in enumerate(clips)]
    return Section(
        anchor=anchor,
        title=title,
        body=Markup("\n").join(parts),
        scripts=(page_text("viewer.js", "mgcli.extract"),),
        styles=(page_text("viewer.css", "mgcli.extract"),),
    )


def _viewer(key: str, clip: ViewedClip) -> Markup:
    """One clip: what moves in front, all the rest as text."""
    lanes, tables = _lanes(clip)
    data, maps = _data(clip)
    body = [
        Markup("<dl>{}</dl>").format(
            Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in clip.facts.items())
        ),
        html_warnings(clip.notes),
        _answer(clip.answer) if clip.answer is not None else "",
        _stage(key, clip.view, maps) if len(clip.view.times_s) else "",
        _controls(key, clip.view) if len(clip.view.times_s) or lanes else "",
        Markup('<div class="lanes">{}<div class="cursor" aria-hidden="true"></div></div>').format(
            Markup("").join(lanes)
        ),
        "" if clip.traces else Markup('<p class="missing">The cache has no tokens of this clip.</p>'),
        _absent(clip.absent),
        html_details("Tokens as tables", Markup("").join(tables)) if tables else "",
        html_data(f"{key}-data", data),
    ]
    return Markup(
        '<article class="viewer" id="{0}" aria-labelledby="{0}-title"><h3 id="{0}-title">{1}</h3>{2}</article>'
    ).format(key, clip.view.clip_id, Markup("\n").join(part for part in body if part))


def _lanes(clip: ViewedClip) -> tuple[list[Markup], list[Markup]]:
    """What goes on over time: as lanes, and as tables. What a head looks at comes first."""
    view, attention, norms, tables = clip.view, list[Markup](), list[Markup](), list[Markup]()
    seen = [face is not None for face in view.faces]
    faces = [seen_lane(view.times_s, seen, view.start_s, view.end_s)] if seen else []
    for trace in clip.traces:
        course, spec = course_of(trace, clip.attention_to(trace)), trace.features.spec
        name = f"{spec.modality} ({spec.backbone}, {spec.tokens})"
        if course.attention is not None:
            attention.append(attention_lane(f"Attention to {name}", course, view.start_s, view.end_s))
        norms.append(norm_lane(f"Token norm, {name}", course, view.start_s, view.end_s))
        tables.append(course_table(f"Tokens of {name} in {trace.features.name}", course))
    return [*attention, *faces, *norms], tables


def _answer(answer: Answer) -> Markup:
    """True and predicted class, and the likeliest ones."""
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    predicted, shown = ranked[0][0], ranked[:SHOWN_CLASSES]
    if answer.true in answer.probabilities and answer.true not in dict(shown):
        shown.append((answer.true, answer.probabilities[answer.true]))
    verdict = "right" if predicted == answer.true else "wrong"
    said = Markup('<p class="verdict">Predicted <b>{}</b>, {}</p>').format(
        predicted, f"{verdict}: true is {answer.true}" if answer.true else "the true class is not known"
    )
    rows = [
        [
            f"{name} (true)" if name == answer.true else name,
            Markup('<span class="share" style="--share:{:.4f}"></span>').format(probability),
            f"{100 * probability:.1f} %",
        ]
        for name, probability in shown
    ]
    left_out = f", {len(ranked) - len(shown)} classes left out" if len(ranked) > len(shown) else ""
    caption = f"Probabilities by {answer.head}, seed {answer.seed}{left_out}"
    return said + html_table(["class", "", "probability"], rows, caption=caption)


def _stage(key: str, view: ClipMedia, maps: Sequence[str]) -> Markup:
    """The picture with what is drawn over it, the face beside it, and what can be switched off."""
    switches = (["skeleton"] if view.skeleton is not None else []) + list(maps)
    boxes = Markup("").join(
        Markup('<label><input type="checkbox" checked data-layer="{0}"> {0}</label>').format(name) for name in switches
    )
    face = Markup(
        '<figure class="face"><img alt="" hidden><p class="none">no face</p>'
        "<figcaption>aligned face</figcaption></figure>"
    )
    return Markup(
        '<div class="stage"><div class="picture" style="aspect-ratio:{width}/{height};max-width:{wide}px">{frame}'
        '<canvas role="img" aria-label="Frame of clip {clip}"></canvas></div>{face}'
        '<div class="layers" role="group" aria-label="Drawn over the frame">{boxes}</div></div>'
    ).format(
        width=view.size_px[0],
        height=view.size_px[1],
        wide=2 * view.size_px[0],
        frame=Markup('<img alt="">') if view.frames else "",
        clip=view.clip_id,
        face=face if view.faces else "",
        boxes=boxes,
    )


def _controls(key: str, view: ClipMedia) -> Markup:
    """The time line."""
    return Markup(
        '<div class="controls"><button type="button" class="play" aria-pressed="false">Play</button>'
        '<label for="{key}-time">Time</label>'
        '<input type="range" id="{key}-time" min="{start:.3f}" max="{end:.3f}" step="any" value="{start:.3f}">'
        '<output for="{key}-time"></output></div>'
    ).format(key=key, start=view.start_s, end=max(view.end_s, view.start_s + 1e-3))


def _absent(absent: Sequence[AbsentTokens]) -> Markup | str:
    if not absent:
        return ""
    rows = [[each.feature_set, each.reason] for each in absent]
    caption = "Feature sets without tokens of this clip"
    return html_details(
        f"Feature sets of the cache that have no tokens of this clip: {len(rows)}",
        html_table(["feature set", "why"], rows, caption=caption),
    )


def _data(clip: ViewedClip) -> tuple[dict[str, Any], list[str]]:
    """What the script needs, and the names of the maps that it may draw over the picture."""
    view, skeleton = clip.view, clip.view.skeleton
    data: dict[str, Any] = {
        "span": [round(view.start_s, 4), round(view.end_s, 4)],
        "times": view.times_s.round(4).tolist(),
        "size": list(view.size_px),
        "frames": [_url(each) for each in view.frames],
        "faces": [None if each is None else _url(each) for each in view.faces],
        "skeleton": None,
        "grid": None,
        "joints": None,
    }
    if skeleton is not None:
        data["skeleton"] = {
            "edges": [list(edge) for edge in skeleton.layout.edges] if skeleton.layout else [],
            "joints": [
                [None if math.isnan(x) else [round(x, 1), round(y, 1)] for x, y in moment]
                for moment in skeleton.joints.tolist()
            ],
        }
    maps = []
    for trace in clip.traces:
        if trace.num_places == 0:
            continue
        attention, spec = clip.attention_to(trace), trace.features.spec
        what = f"{'attention' if attention is not None else 'token norm'}, {spec.modality}"
        values = trace.norm if attention is None else attention
        if spec.reads == "video" and view.frames and data["grid"] is None:
            side = math.isqrt(trace.num_places)
            if side * side == trace.num_places:
                data["grid"] = {
                    **_map(trace, values),
                    "side": side,
                    "box": _seen_box(spec, view.size_px),
                    "layer": what,
                }
                maps.append(what)
        elif spec.reads == "skeleton" and skeleton is not None and data["joints"] is None:
            places = _joint_places(spec, view)
            if len(places) == trace.num_places:
                data["joints"] = {**_map(trace, values), "places": places, "layer": what}
                maps.append(what)
    return data, maps


def _url(picture: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture).decode('ascii')}"


def _map(trace: TokenTrace, values: np.ndarray) -> dict[str, Any]:
    """Values over places at each time, times (G,), values (G, P), as shares of what is painted most strongly.

    That is the highest, or STANDS_OUT times the mean if it is more: what hardly prefers any place is pale everywhere.
    """
    placed = trace.place >= 0
    times, group = np.unique(trace.time_s[placed].round(4), return_inverse=True)
    summed = np.zeros((len(times), trace.num_places))
    np.add.at(summed, (group.ravel(), trace.place[placed]), values[placed])
    kept = np.arange(0, len(times), max(1, -(-len(times) // MAX_MAPS)))
    full = max(summed.max(), STANDS_OUT * summed.mean(), 1e-12)
    return {"times": times[kept].tolist(), "values": (summed[kept] / full).round(3).tolist()}


def _seen_box(spec: FeatureSpec, size_px: tuple[int, int]) -> list[float]:
    """Left, top, right, bottom of what the backbone saw of the shown frame: the middle that its transform cuts out."""
    width, height = size_px
    resize, crop = spec.transform.get("resize_px"), spec.transform.get("crop_px")
    if not isinstance(resize, int) or not isinstance(crop, int):
        return [0, 0, width, height]
    side = min(crop / resize, 1.0) * min(width, height)
    return [
        round(each, 1) for each in ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    ]


def _joint_places(spec: FeatureSpec, view: ClipMedia) -> list[int]:
    """For each place of a skeleton backbone, which shown joint it is; empty where they are not of one layout."""
    assert view.skeleton is not None
    shown = view.skeleton.layout
    try:
        own = joint_layout(str(spec.transform.get("joints", "")))
    except LayoutError:
        return []
    if shown is None or not set(own.joints) <= set(shown.joints):
        return []
    return [shown.index(joint) for joint in own.joints]
