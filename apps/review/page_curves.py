"""Page: what was pretraining worth? One line an arm, with intervals, labels saved, and one plain sentence."""

import board
import plotly.graph_objects as go
import streamlit as st

from medssl.reporting.dashboard import runs as review_runs
from medssl.reporting.dashboard.runs import StudyShown
from medssl.reporting.style import MODES

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}
DASHES = {"-": "solid", "--": "dash", ":": "dot"}


def figure(lines: list[dict], metric: str) -> go.Figure:
    """Score over labelled patients, log axis, intervals as bars."""
    drawn = go.Figure()
    for line in lines:
        rows = line["rows"]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": rows["high"] - rows["mean"],
            "arrayminus": rows["mean"] - rows["low"],
        }
        hover = [
            f"<b>{line['name']}</b><br>{r.budget_name}: {r.patients:g} patients, {r.draws:g} draws<br>"
            f"{metric} {r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]"
            for r in rows.itertuples()
        ]
        drawn.add_scatter(
            x=line["x"], y=rows["mean"], name=line["name"], mode="lines+markers", hovertext=hover, hoverinfo="text",
            line={"color": line["colour"], "dash": DASHES[line["dash"]], "width": 2},
            marker={"symbol": SYMBOLS[line["marker"]], "size": 8},
            error_y=bars | {"thickness": 1.2, "width": 0, "color": line["colour"]},
        )  # fmt: skip
    sizes = sorted({n for line in lines for n in line["rows"]["patients"]})
    drawn.update_xaxes(
        type="log",
        tickvals=sizes,
        ticktext=[f"{n:g}" for n in sizes],
        title="labelled patients, validation included",
        showgrid=False,
    )
    drawn.update_yaxes(title=metric)
    legend = {"orientation": "h", "y": -0.22, "x": 0}
    return drawn.update_layout(
        height=430, margin={"l": 10, "r": 10, "t": 10, "b": 10}, legend=legend, hovermode="closest"
    )


def show() -> None:
    """The sentence, the curves, labels saved, the numbers, and what is not whole."""
    shown = board.study()
    if shown is None:
        return
    board.headline(shown)
    so_far = "So far: " if shown.provisional and len(shown.main) else ""
    st.markdown(f"#### {so_far}{shown.lead}")
    st.caption(shown.detail)
    if len(shown.main):
        with board.guarded("The picture"):
            _curves(shown)
        with board.guarded("The table of labels saved"):
            _labels_saved(shown)
        with board.guarded("The table of scores"):
            st.markdown("##### Numbers")
            st.table(review_runs.scores(shown).set_index("budget"))
    with board.guarded("The table of cells"):
        troubles = review_runs.troubles(shown)
        if troubles is not None:
            st.markdown("##### Cells that are not whole")
            st.table(troubles.set_index("cell"))


def _curves(shown: StudyShown) -> None:
    modes = [mode for mode in MODES if (shown.main["mode"] == mode).any()]
    picked = modes[0]
    if len(modes) > 1:
        picked = st.radio("Encoders used by", modes, format_func=MODES.__getitem__, horizontal=True)
    st.plotly_chart(figure(review_runs.curves(shown.main, [picked]), shown.metric), config={"displayModeBar": False})
    config = shown.run.config
    scored = f"{config.get('scored_patients', '–')} {config.get('score_on', 'test')} patients"
    st.caption(f"Means over draws and {scored}, with 95% intervals. Training from scratch is in every picture.")


def _labels_saved(shown: StudyShown) -> None:
    st.markdown("##### Labels saved")
    saved, reason, full = board.labels_saved(shown)
    if saved is None:
        st.caption(f"Cannot be told. {reason}")
        return
    st.caption(f"Patients an arm needs for the score of scratch with all labels ({full}).")
    st.table(saved.set_index("arm"))
