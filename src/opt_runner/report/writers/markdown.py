"""report.md: the tables as Markdown."""

from opt_runner.report.columns import columns, notes
from opt_runner.report.trials import SETTINGS, settings
from opt_runner.report.writers.report import Report


def text(report: Report) -> str:
    lines = [f"# {report.title}", "", f"{report.date}. Command: `{report.command}`", ""]
    for table in report.tables:
        shown = columns(table)
        lines += [f"## {table.title}", ""]
        if table.power:
            lines += [table.power, ""]
        lines.append(_line([column.heading for column in shown]))
        lines.append("|---" * len(shown) + "|")
        for row in table.rows:
            cells = [column.text(table, row) for column in shown]
            if row is table.best:
                cells = [f"**{cell}**" for cell in cells]
            lines.append(_line(cells))
        lines.append("")
    for searches, _ in report.tunings:
        lines += [f"## {searches[0].name}: where the settings came from", ""]
        lines += [_line(list(SETTINGS)), "|---" * len(SETTINGS) + "|"]
        lines += [*map(_line, settings(searches)), ""]
    lines += [f"- {note}" for note in notes(report.tables)]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
