"""The dashboard's first file: the pages of this folder, the choice of a study, and a check for changes every few seconds.

    medssl review RUNS

A new page is one more file in this folder (see medssl/reporting/dashboard/pages.py). What the pages show is computed in
medssl/reporting/dashboard.
"""

from pathlib import Path

import streamlit as st
from PIL import Image

from medssl.reporting import widgets
from medssl.reporting.dashboard import session
from medssl.reporting.dashboard.pages import pages

st.set_page_config("medssl", page_icon=Image.new("RGB", (32, 32), "#0072B2"), layout="wide")  # a named icon is fetched
st.html(
    "<style>.stMainBlockContainer {padding: 2.2rem 2.5rem 3rem}"
    " .stHtml h4 {font-size: 1.5rem; line-height: 1.25; padding: 0}</style>"
)
with widgets.guarded("This page"):
    page = st.navigation([st.Page(page.path, title=page.title) for page in pages(Path(__file__).parent)])
    session.read_folder()
    with st.sidebar:
        session.choose_study()
        session.follow_folder()
    page.run()
