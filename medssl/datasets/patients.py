"""Whose scan each one is: by a column of the labels, by a pattern on its path, or by its DICOM header.

rule = PatientRule("(sub-[0-9]+)", columns=())
candidates = rule.apply(candidates, notices)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from medssl.core.errors import MedsslError, nearest
from medssl.datasets.candidates import Candidate
from medssl.datasets.notices import Notice
from medssl.datasets.spellings import DIFFERENCES, MISSING_WORDS, written_in_two_ways

NO_PATIENT = MISSING_WORDS | {"unknown", "anon", "anonymous", "anonymized", "anonymised", "0"}


class PatientRule:
    """Where patients come from.

    Args:
        patient: A column of the labels; else a pattern with one group, searched in the path; None for the header.
        columns: The columns of the labels.

    Raises:
        MedsslError: `patient` is neither a column nor such a pattern.
    """

    def __init__(self, patient: str | None, columns: Sequence[str]) -> None:
        self.from_labels = patient in columns
        self.pattern = None if patient is None or self.from_labels else _pattern(patient, columns)

    def apply(self, candidates: Iterable[Candidate], notices: list[Notice]) -> Iterator[Candidate]:
        """The candidates with their patients; those of whom nothing is said count as patients of their own."""
        alone, named = 0, set()
        for candidate in candidates:
            if self.pattern:
                self._match(candidate)
            elif not self.from_labels and candidate.header:
                candidate.patient = candidate.header.patient
                if candidate.patient is None:
                    candidate.patient = f"scan {candidate.identity}"
                    alone += candidate.reason is None
            if candidate.patient and candidate.reason is None:
                named.add(candidate.patient)
            yield candidate
        if twice := len(written_in_two_ways(named)):
            text = f"{twice} patients are named in two ways, which differ in {DIFFERENCES} alone: each way counts as a person"
            notices.append(Notice(text))
        if words := sorted(word for word in named if word.strip().lower() in NO_PATIENT):
            text = "words that seem to mean no patient are patients: all scans with the same word count as one person; leave cells empty"
            notices.append(Notice(f"{len(words)} {text}", tuple(words)))
        if alone:
            notices.append(Notice(f"{alone} scans name no patient, each counts as its own (say who with --patient)"))

    def _match(self, candidate: Candidate) -> None:
        match = self.pattern and self.pattern.search(candidate.source.relative(candidate.path).as_posix())
        candidate.patient = match[1] if match else None
        if not candidate.patient:
            candidate.reject("the patient pattern does not match its path: patient unknown")


def _pattern(patient: str, columns: Sequence[str]) -> re.Pattern:
    try:
        pattern = re.compile(patient)
    except re.error:
        pattern = re.compile("")
    if pattern.groups != 1:
        guess = nearest(patient, columns) if columns else ""
        raise MedsslError(
            f"patient is {patient!r}: neither a column of the labels nor a pattern with one (group) on the path{guess}"
        )
    return pattern
