"""The dashboard's first file: the pages of this folder, the choice of a study, and a check for changes every few seconds.

    medssl review RUNS

A new page is one more file in this folder (see medssl/reporting/dashboard/pages.py). What the pages show is computed in
medssl/reporting/dashboard.
"""

from pathlib import Path

import streamlit as st
from PIL import Image

from medssl.reporting import navigation, widgets
from medssl.reporting.dashboard import readers, session
from medssl.reporting.dashboard.pages import pages

st.set_page_config("medssl", page_icon=Image.new("RGB", (32, 32), "#0072B2"), layout="wide")  # a named icon is fetched
st.html(Path(__file__).with_name("page.css"))
with widgets.guarded("This page"):
    listed = [page for page in pages(Path(__file__).parent) if readers.may_see(page.path.stem)]
    shown = [st.Page(page.path, title=page.title) for page in listed]
    page = st.navigation(shown, position="hidden")
    session.read_folder()
    wrong = session.take_study()
    with st.sidebar:
        navigation.show(shown)
        session.follow_folder()
    if wrong:
        navigation.show_studies(wrong, page)
    else:
        navigation.note_misread()
        page.run()
