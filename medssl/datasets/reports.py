"""Report text, kept only on request (`index --report COLUMN`), after words that may name somebody are removed.

    scrub("Seen by Dr. Ann Lee on 2021-03-04. The liver is normal.", known=[])
    # "Seen by [removed] on [removed]. The liver is normal."

Removed: whatever the same scan's header, path or row of the table says as a patient, a site or free text; dates, times,
numbers of five digits and more, UIDs, telephone numbers, mail and web addresses; names after a title (Dr., Mr., Prof.) or
after words such as "signed by" or "Name:". This is no anonymisation: a name in the middle of a sentence that nothing
else knows stays. Read the reports before they leave the place where the scans are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from medssl.datasets.candidates import Candidate
from medssl.datasets.notices import Notice

REMOVED = "[removed]"
MIN_KNOWN_LENGTH = 3  # characters of a known word: shorter ones are too often words of the report itself
MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mär|mai|okt|dez)[a-zäé]*\.?"
NAME = r"(?:[A-ZÀ-Þ]\.|[A-ZÀ-Þ][\w'’^-]*|\[removed\])"  # an initial, a word, or one that was taken out before
PATTERNS = [
    rf"\b(?:[Dd]r|[Pp]rof|[Mm]rs?|[Mm]s|[Mm]iss|[Hh]err|[Ff]rau)\b\.?(?:\s+(?:med|Dr|Prof)\b\.?)*(?:\s+{NAME})+",
    rf"(?i:\b(?:signed|dictated|reported|referred|read) by)\s*:?(?:[\s,]+{NAME})+",
    rf"(?i:\b(?:name|patient|physician|radiologist|mrn|accession|id|dob|born))\s*[:#]\s*\S+(?:\s+{NAME})*",
    r"\S+@\S+",
    r"(?:https?://|www\.)\S+",
    r"\b\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b",  # 2021-03-04, 4.3.21, 3/4/2021
    rf"(?i:\b\d{{1,2}}\.?\s+{MONTH}\s*,?\s+\d{{2,4}}\b|\b{MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}\b)",
    r"(?i:\b\d{1,2}:\d{2}(?::\d{2})?(?:\s*[ap]\.?m\b\.?)?)",
    r"\b\d+(?:\.\d+){3,}\b",  # a UID
    r"\+?\d[\d ()/-]{6,}\d\b",  # a telephone number
    r"\b\w*\d{5,}\w*\b",
]
CAPITALISED = re.compile(
    r"(?<=[\w,;] )[A-ZÀ-Þ][\w'’-]+"
)  # not at the beginning of a sentence: a name, or an English proper noun


def scrub(text: str, known: Iterable[str | None] = ()) -> str:
    """The text without what looks like a person's name, a date or a number.

    Args:
        text: A report.
        known: Texts that may name somebody; they are removed wherever they stand.

    >>> scrub("MRN 1234567, Meier: lungs clear.", known=["Meier^Hans"])
    'MRN [removed], [removed]: lungs clear.'
    """
    for word in sorted(_words(known), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", REMOVED, text, flags=re.IGNORECASE)
    for pattern in PATTERNS:
        text = re.sub(pattern, REMOVED, text)
    return " ".join(text.split())


def count_reports(candidates: Iterable[Candidate], notices: list[Notice]) -> Iterator[Candidate]:
    """The candidates as they are; after the last one, a notice of how many have a report and what was removed."""
    usable = reports = removed = 0
    for candidate in candidates:
        usable += candidate.reason is None
        reports += candidate.reason is None and candidate.report is not None
        removed += (candidate.report or "").count(REMOVED)
        yield candidate
    text = f"{reports} of {usable} scans have a report; {removed} names, dates and numbers were taken out, by pattern: "
    notices.append(Notice(text + "that is no anonymisation, read them before you hand on manifest or cache"))


def reports_to_review(reports: Iterable[str | None], count: int) -> list[str]:
    """The reports as they are kept, those with the most words that may still be names first.

    Args:
        reports: Texts that `scrub` returned.
        count: How many to return.

    >>> reports_to_review(["Clear lungs.", "Seen with Ann Lee.", None], 1)
    ['Seen with Ann Lee.']
    """
    texts = [text for text in reports if text]
    return sorted(texts, key=lambda text: -len(CAPITALISED.findall(text)))[:count]


def _words(known: Iterable[str | None]) -> set[str]:
    """Each known text, and each of its words, of MIN_KNOWN_LENGTH characters and more."""
    texts = {str(text).strip() for text in known if text is not None}
    parts = {part for text in texts for part in re.split(r"[\s^_,;/\\.]+", text)}
    return {word for word in texts | parts if len(word) >= MIN_KNOWN_LENGTH}
