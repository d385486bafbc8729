"""Page: single cases, the worst first: the scan with its reference, and two arms beside it."""

import base64
import html
import io
from dataclasses import dataclass

import board
import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from medssl.preprocessing.cache import Cache
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting.dashboard import cases as review_cases
from medssl.reporting.dashboard.cases import Overlay, Plane
from medssl.reporting.dashboard.runs import StudyShown
from medssl.reporting.style import arm_name, number
from medssl.studies.results import arrays

STYLE = """<style>
.case {display: flex; gap: 14px; align-items: flex-start; font-size: 14px}
.case figure {flex: 1 1 0; margin: 0; min-width: 0}
.case .frame {position: relative; background: #000; border-radius: 6px; overflow: hidden}
.case .frame img {width: 100%; max-height: 600px; object-fit: contain; display: block}
.case .frame b {position: absolute; color: #f4f4f4; font-size: 15px; text-shadow: 0 0 3px #000, 0 0 6px #000}
.case .top {top: 4px; left: 50%; transform: translateX(-50%)}
.case .bottom {bottom: 4px; left: 50%; transform: translateX(-50%)}
.case .left {left: 8px; top: 50%; transform: translateY(-50%)}
.case .right {right: 8px; top: 50%; transform: translateY(-50%)}
.case figcaption {padding: 6px 2px}
.case .bar {display: grid; grid-template-columns: 9em 1fr 4em; gap: 8px; align-items: center; margin: 5px 0}
.case .bar i {display: block; height: 14px; border-radius: 3px}
.case .track {background: rgba(128, 128, 128, .18); border-radius: 3px}
</style>"""
TRUE, OTHER = "#009E73", "#8a8a8a"


@dataclass(frozen=True)
class Picked:
    """The study, two of its arms (arm, mode, budget) in one draw, and the case looked at."""

    shown: StudyShown
    arms: dict[str, tuple]  # "A", and "B" where the study has another
    draw: int
    case: pd.Series

    @property
    def segmented(self) -> bool:
        return self.shown.task == "segmentation"

    def name(self, letter: str) -> str:
        return f"{letter}: {arm_name(*self.arms[letter][:2])}"


def show() -> None:
    """The list of cases on the left, the one picked on the right."""
    shown = board.study()
    if shown is None:
        return
    board.headline(shown)
    if not shown.cases:
        st.info("No cell of this study has cases that can be read yet.")
        return
    arms, draw = _arms(shown)
    left, right = st.columns([1.25, 2.75], gap="medium")
    with left:
        picked = Picked(shown, arms, draw, _case(shown, arms, draw))
    with right, board.guarded("This case"):
        st.markdown(f"**Scan {picked.case['scan']}** · patient {picked.case['patient']}")
        cache, reason = board.cache_of(shown)
        if cache is not None:
            _scan(picked, cache)
            return
        st.info(reason)
        if picked.segmented:
            _examples(picked)
        else:
            st.html(f'{STYLE}<div class="case">{_probabilities(picked)}</div>')


def _arms(shown: StudyShown) -> tuple[dict[str, tuple], int]:
    """Two arms of one budget and draw."""
    sizes = dict(zip(shown.main["budget_name"], shown.main["patients"], strict=True))
    budgets = sorted({key[2] for key in shown.cases}, key=lambda name: sizes.get(name, 0))
    columns = st.columns([1, 1, 2, 2])
    budget = columns[0].selectbox("Budget", budgets)
    draw = columns[1].selectbox("Draw", review_cases.draws(shown.cases, budget))
    names = review_cases.arms(shown.cases, budget, draw)
    a = columns[2].selectbox("Arm A", names, format_func=lambda name: arm_name(*name))
    others = [name for name in reversed(names) if name != a]  # baselines come first: B is a pretrained one
    b = columns[3].selectbox("Arm B", others, format_func=lambda name: arm_name(*name)) if others else None
    return {letter: (*name, budget) for letter, name in (("A", a), ("B", b)) if name}, draw


def _case(shown: StudyShown, arms: dict[str, tuple], draw: int) -> pd.Series:
    """A's worst case, unless another is ticked."""
    listed = review_cases.worst_first(*(shown.cases[key][draw] for key in arms.values()))
    kind = "Dice" if shown.task == "segmentation" else "p(true)"
    names = {"scan": "scan, worst first", "a": f"A: {kind}", "b": f"B: {kind}"}
    numbers = {name: st.column_config.NumberColumn(format="%.3f", width=75) for name in (names["a"], names["b"])}
    event = st.dataframe(
        listed[[name for name in names if name in listed]].rename(columns=names), key=f"cases {arms} {draw}",
        hide_index=True, on_select="rerun", selection_mode="single-row", height=560,
        column_config=numbers | {names["scan"]: st.column_config.TextColumn(width=115)},
    )  # fmt: skip
    rows = [row for row in event.selection.rows if row < len(listed)]
    return listed.iloc[rows[0] if rows else 0]


def _scan(picked: Picked, cache: Cache) -> None:
    """The scan with its reference, and each arm's prediction or probabilities beside it."""
    scan = picked.case["scan"]
    reference = cache.read_mask(scan) if picked.segmented else None
    plane, index, window, opacity, outlined = _controls(picked, cache, reference)
    image, affine = review_cases.slice_in(cache, scan, plane, index), cache.affine(scan)
    if reference is None:
        frames = [_framed(image, window, [], "image"), f"<figure>{_probabilities(picked)}</figure>"]
    else:
        fill = Overlay(review_cases.slice_of(reference, affine, plane, index).pixels, opacity)
        outline = [Overlay(fill.mask, 1.0, True)] if outlined else []
        frames = [_framed(image, window, [fill], "image and reference")]
        for letter, key in picked.arms.items():
            predicted = board.mask_of(picked.shown, key, picked.draw, scan)
            if predicted is None:
                caption = f"{picked.name(letter)}: no mask kept (the first draw of a study keeps them)"
                frames.append(_framed(image, window, [], caption))
                continue
            over = Overlay(review_cases.slice_of(predicted, affine, plane, index).pixels, opacity)
            caption = f"{picked.name(letter)} · Dice {number(picked.case[letter.lower()])}"
            frames.append(_framed(image, window, [over, *outline], caption))
    st.html(f'{STYLE}<div class="case">{"".join(frames)}</div>{_legend(cache) if picked.segmented else ""}')
    notes = cache.manifest.set_index("scan")["notes"][scan]
    if isinstance(notes, str) and notes:
        st.caption(f"Noted when it was read: {notes}")


def _controls(
    picked: Picked, cache: Cache, reference: np.ndarray | None
) -> tuple[str, int, tuple[float, float], float, bool]:
    """The plane, the slice, the window, the overlay's opacity, and whether the reference is outlined."""
    scan, plane, index = picked.case["scan"], "axial", 0
    shape = cache.shape(scan)
    volume = len(shape) == 3
    columns = iter(st.columns([1.3, 2, 1.6, 1.8, 1.4] if volume else [1.6, 1.8, 1.4, 2], vertical_alignment="bottom"))
    if volume:
        plane, place = next(columns).selectbox("Plane", list(review_cases.PLANES)), next(columns)
        last = review_cases.slices(shape, plane) - 1
        index = review_cases.fullest_slice(reference, shape, plane)
        if last:
            index = place.slider("Slice", 0, last, index, key=f"slice {scan} {plane}")
    presets = review_cases.windows(cache.modality)
    window = presets[next(columns).selectbox("Window", list(presets))]
    if not picked.segmented:
        return plane, index, window, 0.0, False
    opacity = next(columns).slider("Overlay opacity", 0.0, 1.0, 0.35, 0.05)
    return (
        plane,
        index,
        window,
        opacity,
        next(columns).toggle("Outline", True, help="of the reference, over predictions"),
    )


def _examples(picked: Picked) -> None:
    """Without the scans' voxels: the slices each arm kept of its own worst, median and best case."""
    data_spec = DataSpec.from_record(picked.shown.run.config)
    affine = np.diag([*(*data_spec.spacing_mm, 1.0)[:3], 1.0])
    for letter, key in picked.arms.items():
        kept = arrays(board.cell_of(picked.shown, key, picked.draw) / "examples.npz", "image")
        if not kept:
            st.caption(f"{picked.name(letter)} kept no pictures (the first draw of a study does).")
            continue
        frames = [
            _example(kept, n, data_spec.dims == 3, affine, f"{picked.name(letter)} · its own {word}")
            for n, word in enumerate(("worst", "median", "best"))
            if f"image.{n}" in kept
        ]
        st.html(f'{STYLE}<div class="case">{"".join(frames)}</div>')
    st.caption("Filled: the arm's prediction. Yellow: outline of the reference. One slice of each was kept.")


def _example(kept: dict[str, np.ndarray], n: int, volume: bool, affine: np.ndarray, caption: str) -> str:
    def cut(kind: str) -> Plane:
        array = kept[f"{kind}.{n}"]
        return review_cases.slice_of(array[:, :, None] if volume else array, affine, "axial", 0)

    low, high = np.percentile(kept[f"image.{n}"], [1, 99])
    over = [Overlay(cut("prediction").pixels, 0.35), Overlay(cut("reference").pixels, 1.0, True)]
    return _framed(cut("image"), (low, high), over, f"{caption}, Dice {float(kept[f'dice.{n}']):.3f}")


def _framed(plane: Plane, window: tuple[float, float], overlays: list[Overlay], caption: str) -> str:
    """One picture with the letters at its edges."""
    buffer = io.BytesIO()
    Image.fromarray(review_cases.picture(plane, window, overlays)).save(buffer, "PNG", compress_level=1)
    data, said = base64.b64encode(buffer.getvalue()).decode(), html.escape(caption)
    edges = {"top": plane.top, "bottom": plane.bottom, "left": plane.left, "right": plane.right}
    letters = "".join(f'<b class="{edge}">{letter}</b>' for edge, letter in edges.items() if letter)
    shown = f'<img alt="{said}" src="data:image/png;base64,{data}">{letters}'
    return f'<figure><div class="frame">{shown}</div><figcaption>{said}</figcaption></figure>'


def _probabilities(picked: Picked) -> str:
    """Each arm's class probabilities as bars, the true class in green."""
    parts = []
    for letter, key in picked.arms.items():
        cases = picked.shown.cases[key][picked.draw]
        probabilities, truth = review_cases.class_probabilities(cases, picked.case["scan"])
        parts.append(f"<figcaption><b>{html.escape(picked.name(letter))}</b></figcaption>")
        for name, p in probabilities.items():
            said = html.escape(name) + (" (true)" if name == truth else "")
            bar = f'<i style="width: {100 * p:.1f}%; background: {TRUE if name == truth else OTHER}"></i>'
            parts.append(
                f'<div class="bar"><span>{said}</span><div class="track">{bar}</div><span>{p:.3f}</span></div>'
            )
    return "".join(parts)


def _legend(cache: Cache) -> str:
    parts = [(review_cases.structure_colour(s), f"structure {s}") for s in cache.structures]
    marks = [
        f'<span style="color: {c}">■</span> {said}'
        for c, said in (*parts, (review_cases.OUTLINE, "outline of the reference"))
    ]
    return f'<div style="font-size: 14px">{" &nbsp; ".join(marks)}</div>'
