"""report.tex: the tables for LaTeX with booktabs."""

from opt_runner.report.columns import columns
from opt_runner.report.writers.report import Report

_ESCAPED = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
    "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "±": "$\\pm$", "→": "$\\to$", "|QᵀQ-I|": "$|Q^{\\top}Q-I|$", "[": "{[}",
    "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip


def text(report: Report) -> str:
    lines = ["% \\usepackage{booktabs}"]
    for table in report.tables:
        shown = columns(table)
        lines += ["\\begin{table}", "\\centering", f"\\caption{{{_escape(table.title)}}}"]
        lines += [f"\\begin{{tabular}}{{l{'r' * (len(shown) - 1)}}}", "\\toprule"]
        lines += [_line([_escape(column.heading) for column in shown]), "\\midrule"]
        for row in table.rows:
            cells = [_escape(column.text(table, row)) for column in shown]
            if row is table.best:
                cells = [f"\\textbf{{{cell}}}" for cell in cells]
            lines.append(_line(cells))
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _escape(text: str) -> str:
    if text in _ESCAPED:
        return _ESCAPED[text]
    return "".join(_ESCAPED.get(character, character) for character in text)
