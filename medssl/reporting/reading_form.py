"""The questions about a case that is read: grades, fit for use, preference, the right class, a comment.

    form = Form(("Ann", "4f1c"), ("A", "B"), structures=(1, 2))
    form.draw(before)              # before: the answers of an earlier reading of the case
    form.answers()                 # as they stand in the browser now, also inside a callback

A button's callback asks for the answers itself: what was bound to it when the page was drawn would lack a comment that was typed
just before the click.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import streamlit as st

from medssl.reporting.dashboard.reading import GRADES, PREFERENCES
from medssl.reporting.verdicts.readings import Answer

COMMENT_CHARACTERS = 2000
KEYS = {"A": "A", "equal": "E", "B": "B"}  # of the keyboard


@dataclass(frozen=True)
class Form:
    """The questions about one case.

    Attributes:
        about: What makes the case another one: the reader, the runs, the scan.
        letters: The sides that are there: A, or A and B.
        structures: The structures of the masks to grade; (0,) where one grade is about all.
        classes: The classes of which one may be said to be right; without them masks are judged fit for use.
    """

    about: tuple[object, ...]
    letters: Sequence[str]
    structures: Sequence[int]
    classes: Sequence[str] = ()

    def draw(self, before: Sequence[Answer]) -> None:
        """Show the questions; before: the answers of an earlier reading of the case."""
        said = {(answer.question, answer.side, answer.structure): answer.value for answer in before}
        for letter, column in zip(self.letters, st.columns(len(self.letters), gap="medium"), strict=True):
            with column.container(
                border=True, key=f"answers-of-{letter}"
            ):  # page.css: a question and its grades in a row
                st.markdown(f"**{letter}**")
                self._draw_side(letter, said)
        if len(self.letters) > 1:
            self._draw_preference(said.get(("prefer", "", 0)))
        if self.classes:
            self._draw_class(said.get(("class", "", 0)))
        st.text_area(
            "Comment",
            said.get(("comment", "", 0), ""),
            key=self._key("comment"),
            max_chars=COMMENT_CHARACTERS,
            height=68,
            placeholder="No names of patients: a comment is kept as it is written",
        )

    def answers(self) -> list[Answer]:
        """Return the answers that are there."""
        asked = [("grade", letter, structure) for letter in self.letters for structure in self.structures]
        asked += [("fit", letter, 0) for letter in self.letters]
        asked += [(question, "", 0) for question in ("prefer", "class", "comment")]
        given = [
            (question, side, structure, self._value(question, side, structure)) for question, side, structure in asked
        ]
        return [Answer(question, value, side, structure) for question, side, structure, value in given if value]

    def forget(self) -> None:
        """Forget the preference, so that the form shows what is saved."""
        st.session_state.pop(self._key("prefer"), None)

    def _draw_side(self, letter: str, said: dict[tuple[str, str, int], str]) -> None:
        for structure in self.structures:
            before = said.get(("grade", letter, structure))
            st.segmented_control(
                f"Structure {structure}" if structure else "Grade",
                list(GRADES),
                default=int(before) if before else None,
                key=self._key("grade", letter, structure),
                help=", ".join(f"{grade} {word}" for grade, word in GRADES.items()),
            )
        if not self.classes:
            st.segmented_control(
                "Mask fit for use",
                ["yes", "no"],
                default=said.get(("fit", letter, 0)),
                key=self._key("fit", letter),
            )

    def _draw_preference(self, before: str | None) -> None:
        """Three buttons, each with a key of the keyboard."""
        name = self._key("prefer")
        chosen = st.session_state.setdefault(name, before)
        columns = st.container(key="pairs-of-preferences").columns(3)
        for (value, text), column in zip(PREFERENCES.items(), columns, strict=True):
            column.button(
                text,
                key=f"{name} {value}",
                type="primary" if chosen == value else "secondary",
                on_click=partial(st.session_state.__setitem__, name, value),
                shortcut=KEYS[value],
                width="stretch",
            )

    def _draw_class(self, before: str | None) -> None:
        st.selectbox(
            "The right class",
            self.classes,
            index=list(self.classes).index(before) if before and before in self.classes else None,
            key=self._key("class"),
            placeholder="not judged",
        )

    def _value(self, question: str, side: str, structure: int) -> str:
        value = st.session_state.get(self._key(question, side, structure))
        return "" if value is None else str(value).replace("\0", "").strip()

    def _key(self, question: str, side: str = "", structure: int = 0) -> str:
        return " ".join(map(str, ("reading", *self.about, question, side, structure)))
