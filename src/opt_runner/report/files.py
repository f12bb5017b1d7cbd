"""A report's files: report.md, .csv, .json, .tex, .html, and the pictures."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opt_runner.files import write_whole
from opt_runner.report import page, plots
from opt_runner.report.comparison import NOTES, Comparison
from opt_runner.report.statistics import Mean

QUANTITIES = (
    "test_error", "test_error_at_best", "validation_error", "train_loss", "orthogonality_error",
    "trainable_parameters", "images_per_second", "seconds",
)  # fmt: skip


def write(comparisons: Sequence[Comparison], folder: Path, title: str, command: str) -> list[Path]:
    """Write all files into `folder`; what a former report left there is replaced.

    Raises CannotWrite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    pictures = [plots.drawn(comparison) for comparison in comparisons]
    contents = {
        "report.md": markdown(comparisons, title, command, date),
        "report.csv": comma_separated(comparisons),
        "report.json": as_json(comparisons, title, command, date),
        "report.tex": latex(comparisons),
        "report.html": page.page(comparisons, pictures, title, command, date),
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    written = [folder / name for name in contents]
    for name in plots.PICTURES:
        for former in [*folder.glob(f"{name}*.png"), *folder.glob(f"{name}*.svg")]:
            former.unlink()
    for number, drawn in enumerate(pictures, 1):
        suffix = f"-{number}" if len(comparisons) > 1 else ""
        for name, figure in drawn.items():
            written += plots.save(figure, folder / f"{name}{suffix}")
    return written


def markdown(comparisons: Sequence[Comparison], title: str, command: str, date: str) -> str:
    lines = [f"# {title}", "", f"{date}. Command: `{command}`", ""]
    for comparison in comparisons:
        shown = comparison.columns()
        lines += [f"## {comparison.title}", ""]
        lines.append("| " + " | ".join(heading.replace("|", "\\|") for heading, _ in shown) + " |")
        lines.append("|---" * len(shown) + "|")
        for row in comparison.rows:
            cells = [cell(comparison, row).replace("|", "\\|") for _, cell in shown]
            if row is comparison.best:
                cells = [f"**{cell}**" for cell in cells]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [f"- {note}" for note in NOTES]
    return "\n".join(lines) + "\n"


def comma_separated(comparisons: Sequence[Comparison]) -> str:
    """A line a cell: what the tables are made of."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "row", "method", "model", "dataset", "seed", "status", *QUANTITIES])
    for comparison in comparisons:
        for row in comparison.rows:
            for cell in row.cells:
                values = [getattr(cell.result, name, None) for name in QUANTITIES]
                writer.writerow(
                    [comparison.title, row.label, row.method, comparison.model, comparison.dataset,
                     cell.seed, cell.status, *("" if v is None else v for v in values)]
                )  # fmt: skip
    return file.getvalue()


def as_json(comparisons: Sequence[Comparison], title: str, command: str, date: str) -> str:
    def number(mean: Mean | None) -> dict[str, Any] | None:
        return None if mean is None else asdict(mean)

    tables = []
    for comparison in comparisons:
        rows = []
        for row in comparison.rows:
            difference = comparison.difference(row)
            rows.append(
                {
                    "row": row.label,
                    "method": row.method,
                    "best": row is comparison.best,
                    "seeds": sorted(row.finished),
                    "unfinished": comparison.unfinished(row),
                    **{name: number(row.mean(name)) for name in QUANTITIES},
                    "minus_standard": None if difference is None else asdict(difference),
                    "energy_start": number(row.energy("energy_start")),
                    "energy_end": number(row.energy("energy_end")),
                    "energy_change_percent": number(row.energy_change()),
                }
            )
        tables.append({"title": comparison.title, "dataset": comparison.dataset,
                       "model": comparison.model, "seeds": comparison.seeds,
                       "differs": comparison.differs, "rows": rows})  # fmt: skip
    content = {"title": title, "command": command, "date": date, "notes": NOTES, "tables": tables}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def latex(comparisons: Sequence[Comparison]) -> str:
    """Tables for LaTeX with booktabs."""
    lines = ["% \\usepackage{booktabs}"]
    for comparison in comparisons:
        shown = comparison.columns()
        lines += ["\\begin{table}", "\\centering", f"\\caption{{{_tex(comparison.title)}}}"]
        lines += [f"\\begin{{tabular}}{{l{'r' * (len(shown) - 1)}}}", "\\toprule"]
        lines += [" & ".join(_tex(heading) for heading, _ in shown) + " \\\\", "\\midrule"]
        for row in comparison.rows:
            cells = [_tex(cell(comparison, row)) for _, cell in shown]
            if row is comparison.best:
                cells = [f"\\textbf{{{cell}}}" for cell in cells]
            lines.append(" & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines) + "\n"


_TEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
    "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "±": "$\\pm$", "|QᵀQ-I|": "$|Q^{\\top}Q-I|$", "[": "{[}",
}  # fmt: skip


def _tex(text: str) -> str:
    if text in _TEX:
        return _TEX[text]
    return "".join(_TEX.get(character, character) for character in text)
