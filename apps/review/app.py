"""The dashboard's first file: the pages, which study is shown, and a look every few seconds for what changed.

    medssl review RUNS

No logic of its own: what is shown is worked out in medssl/review_runs.py and medssl/review_cases.py.
"""

import board
import page_cases
import page_curves
import page_runs
import streamlit as st
from PIL import Image

PAGES = {"Label efficiency": page_curves.show, "Runs": page_runs.show, "Cases": page_cases.show}

st.set_page_config("medssl", page_icon=Image.new("RGB", (32, 32), "#0072B2"), layout="wide")  # a named icon is fetched
st.html("<style>.stMainBlockContainer {padding: 2.2rem 2.5rem 3rem} .stSidebar [role=radiogroup] {gap: .2rem}</style>")
with board.guarded("This page"):
    board.look()
    with st.sidebar:
        st.markdown("### medssl")
        page = board.choose_page(list(PAGES))
        board.choose_study()
        board.follow()
    PAGES[page]()
