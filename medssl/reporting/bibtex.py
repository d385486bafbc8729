"""The works that a study rests on as BibTeX, read from the lines in which the files of the methods name them.

    print(bibtex(citations(run)))       # @misc{chen2020, author = {Chen and others}, title = ...

A line that does not name authors, title, place and year becomes an entry that holds the whole line as its note: nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import metadata

from medssl.reporting.latex import escaped

SURNAME = r"[A-Z][\w-]+"
SEVERAL = rf"{SURNAME} et al\.|(?:{SURNAME}, )*{SURNAME} and {SURNAME}"
WORK = re.compile(
    rf"(?:(?:[^,]{{0,40}}\s)?(?P<authors>{SEVERAL})|(?P<one>{SURNAME})), (?P<title>(?:(?!\b(?:19|20)\d\d\b|\bet al\.).)+), "
    r"(?P<place>[^,]+) (?P<year>(?:19|20)\d\d)(?: \(arXiv (?P<eprint>\d{4}\.\d{4,5})\))?(?: \([^\d()]+\))?"
)
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
SOFTWARE = "medssl "  # how the line on this software begins


def bibtex(works: Iterable[str]) -> str:
    """Return one entry a work; works: as from `methods_text.citations`."""
    used: Counter[str] = Counter()
    return "\n\n".join(_entry(part, used) for work in works for part in _parts(work)) + "\n"


def _parts(work: str) -> list[str]:
    """The works of a line, which stand between semicolons."""
    return [part.strip().rstrip(".") for part in work.split("; ") if not work.startswith(SOFTWARE)] or [work]


def _entry(work: str, used: Counter[str]) -> str:
    kind, key, fields = "misc", "work", {"note": escaped(work)}
    if work.startswith(SOFTWARE):
        about = metadata("medssl")
        kind, key = "software", "medssl"
        fields = {"author": "{The medssl developers}", "title": f"{{medssl: {escaped(about['Summary'])}}}"}
        fields |= {"version": escaped(work.removeprefix(SOFTWARE).partition(":")[0])}
    elif found := WORK.fullmatch(work):
        names = found["authors"] or found["one"]
        fields = {"author": _authors(names), "title": f"{{{escaped(found['title'])}}}"}
        fields |= {"howpublished": escaped(found["place"]), "year": found["year"]}
        key = re.sub(r"\W", "", names.split()[0]).lower() + found["year"]
    if len(numbers := ARXIV.findall(work)) == 1:
        fields |= {"eprint": numbers[0], "archiveprefix": "arXiv"}
    used[key] += 1
    name = key if used[key] == 1 else f"{key}-{used[key]}"
    lines = [f"  {field} = {{{value}}}" for field, value in fields.items()]
    return "\n".join([f"@{kind}{{{name},", ",\n".join(lines), "}"])


def _authors(text: str) -> str:
    """As BibTeX separates them."""
    return text.replace(" et al.", " and others").replace(", ", " and ")
