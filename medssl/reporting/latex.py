r"""A table of a report as LaTeX, for a paper: booktabs rules, the footnotes below.

    latex(tables.scores(main), "Scores")       # "\\begin{table}..."

Every character of data that LaTeX would read as a command is escaped.
"""

from __future__ import annotations

from medssl.reporting.tables import Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": r"$-$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\ldots{}",
    "<": r"$<$",
    ">": r"$>$",
} | {character: f"\\{character}" for character in "&%$#_"}
TRANSLATION = str.maketrans(SPECIAL | {"\n": " ", "\r": " "})


def escaped(text: str) -> str:
    r"""Return a text as LaTeX prints it.

    >>> escaped("10% & more")
    '10\\% \\& more'
    """
    return text.translate(TRANSLATION)


def latex(table: Table, caption: str) -> str:
    """Return a table as a `table` of LaTeX; it needs the package booktabs.

    Args:
        table: The table.
        caption: What stands above it.
    """
    kinds = "".join("r" if column.startswith("#") else "l" for column in table.columns)
    rows: list[str] = []
    for row in table.rows:
        cells = [escaped(cell["text"]) for cell in row["cells"]]
        if row["mark"]:
            cells[table.note_column] += rf"\textsuperscript{{{row['mark']}}}"
        rows.append((r"\addlinespace" + "\n" if row["first"] and rows else "") + " & ".join(cells) + r" \\")
    notes = [
        rf"\par\smallskip\footnotesize\textsuperscript{{{n}}} {escaped(note)}" for n, note in enumerate(table.notes, 1)
    ]
    head = " & ".join(map(escaped, table.names)) + r" \\"
    body = [r"\begin{table}", rf"\caption{{{escaped(caption)}}}", rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head]
    body += [r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}"]
    return "\n".join(body) + "\n"
