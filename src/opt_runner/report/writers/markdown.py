"""report.md: the tables as Markdown."""

from opt_runner.report.columns import columns, notes
from opt_runner.report.writers.report import Report


def text(report: Report) -> str:
    lines = [f"# {report.title}", "", f"{report.date}. Command: `{report.command}`", ""]
    for table in report.tables:
        shown = columns(table)
        lines += [f"## {table.title}", ""]
        lines.append(_line([column.heading for column in shown]))
        lines.append("|---" * len(shown) + "|")
        for row in table.rows:
            cells = [column.text(table, row) for column in shown]
            if row is table.best:
                cells = [f"**{cell}**" for cell in cells]
            lines.append(_line(cells))
        lines.append("")
    lines += [f"- {note}" for note in notes(report.tables)]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
