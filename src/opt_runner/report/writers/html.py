"""report.html: tables, pictures, and how to repeat every run, on one page.

The page loads nothing: no script, no font, no style sheet; its pictures are within it.
"""

from base64 import b64encode
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from opt_runner.records.search import words
from opt_runner.records.stored import StoredRun
from opt_runner.report.columns import columns, finished, notes
from opt_runner.report.figures import PICTURES, conditions, search, tuning
from opt_runner.report.figures.style import as_bytes
from opt_runner.report.trials import SETTINGS, counts, settings
from opt_runner.report.writers.report import Report


def text(report: Report) -> str:
    environment = Environment(
        loader=PackageLoader("opt_runner.report", "."),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "yaml": _yaml, "error": _error}
    return environment.get_template("page.html.j2").render(
        report=report, columns=columns, notes=notes, finished=finished, pictures=PICTURES,
        search_shows=search.SHOWS, counts=counts, words=words, tuning_shows=tuning.SHOWS,
        conditions_shows=conditions.SHOWS,
        settings=settings, settings_headings=SETTINGS,
    )  # fmt: skip


def _data_uri(figure: Figure) -> str:
    """An SVG with its letters as outlines: sharp on every screen, the same without its font."""
    return f"data:image/svg+xml;base64,{b64encode(as_bytes(figure, 'svg')).decode()}"


def _yaml(run: StoredRun) -> str:
    return yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)


def _error(run: StoredRun) -> str | None:
    return run.damage or (run.result.error if run.result else None)


def _printable(value: Any) -> Any:
    """Control characters and halves of surrogate pairs have no place in HTML."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c in "\n\t\u00a0" else "\ufffd" for c in value)
