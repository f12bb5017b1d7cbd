"""The file report.html: tables, pictures, and the runs that did not finish, on one page.

The page loads nothing: no script, no font, no style sheet. Its pictures are inside.
"""

from base64 import b64encode
from functools import cache, partial
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from opt_runner.records.reading import printable
from opt_runner.records.search import words
from opt_runner.report.columns import finished
from opt_runner.report.trials import counts, ranking, settings
from opt_runner.report.writers.report import Picture, Report


def text(report: Report) -> str:
    """Return the file's content."""
    return environment().get_template("page.html.j2").render(
        report=report, finished=finished, counts=counts, words=words, ranking=ranking,
        settings=settings,
    )  # fmt: skip


@cache  # it keeps the compiled templates: to compile one takes longer than to fill it
def environment() -> Environment:
    """Return Jinja's environment of the pages, in which no text of a record is HTML."""
    pages = Environment(
        loader=PackageLoader("opt_runner.report", "."),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    as_yaml = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True)
    pages.filters |= {"data_uri": _data_uri, "yaml": as_yaml}
    return pages


def _data_uri(picture: Picture) -> str:
    """Return the SVG. Its letters are outlines, so it needs no font."""
    return f"data:image/svg+xml;base64,{b64encode(picture.svg).decode()}"


def _printable(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)
