"""The file report.tex: the tables for LaTeX with booktabs."""

from collections.abc import Iterable

from opt_runner.records.reading import printable
from opt_runner.report.writers.report import Report

_ESCAPED = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
    "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "±": "$\\pm$", "→": "$\\to$", "|QᵀQ-I|": "$|Q^{\\top}Q-I|$", "[": "{[}", "]": "{]}",
    "<": "$<$", ">": "$>$", "|": "$|$", "`": "\\textasciigrave{}",
    "\ufffd": "?",
}  # fmt: skip


def text(report: Report) -> str:
    """Return the file's content."""
    lines = ["% \\usepackage{booktabs}"]
    for section in report.sections:
        sheet, table = section.sheet, section.table
        lines += ["\\begin{table}", "\\centering", f"\\caption{{{escape(table.title)}}}"]
        lines += [f"\\begin{{tabular}}{{l{'r' * (len(sheet.columns) - 1)}}}", "\\toprule"]
        lines += [_line(map(escape, sheet.headings)), "\\midrule"]
        for row, cells in zip(table.rows, sheet.cells, strict=True):
            bold = "\\textbf{%s}" if row is table.best else "%s"
            lines.append(_line(bold % escape(cell) for cell in cells))
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + " \\\\"


def escape(text: str) -> str:
    """Return the text escaped for LaTeX, on one line."""
    if text in _ESCAPED:
        return _ESCAPED[text]
    words = " ".join(printable(text).split())
    return "".join(_ESCAPED.get(character, character) for character in words)
