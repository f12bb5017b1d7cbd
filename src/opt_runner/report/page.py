"""The report as one HTML page: tables, figures, and how to repeat every cell.

It loads nothing: no script, no style sheet, no font, no picture from elsewhere.
"""

import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import yaml

from opt_runner.records.stored import StoredRun
from opt_runner.report import comparison, plots
from opt_runner.report.comparison import Comparison, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pictures = Mapping[str, "Figure"]


def page(
    comparisons: Sequence[Comparison],
    pictures: Sequence[Pictures],
    title: str,
    command: str,
    date: str,
) -> str:
    """The page. pictures: as drawn, for each comparison. command: what made it. date: when."""
    tables = enumerate(zip(comparisons, pictures, strict=True), 1)
    sections = [_section(table, drawn, f"table{n}") for n, (table, drawn) in tables]
    contents = "".join(
        f'<li><a href="#table{n}">{_text(table.title)}</a></li>'
        for n, table in enumerate(comparisons, 1)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_text(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
<p>{_text(date)}. Made by <code>{_text(command)}</code></p>
</header>
<main>
{f"<ul>{contents}</ul>" if len(comparisons) > 1 else ""}
{"".join(sections) or "<p>No cells.</p>"}
</main>
</body>
</html>
"""


def _section(table: Comparison, pictures: Pictures, name: str) -> str:
    figures = "".join(
        _figure(figure, f"{name}-{kind}", f"{plots.PICTURES[kind][1]}: {table.title}")
        for kind, figure in pictures.items()
    )
    notes = "".join(f"<li>{_text(note)}</li>" for note in comparison.NOTES)
    cells = "".join(_cell(row, cell) for row in table.rows for cell in row.cells)
    return f"""<section id="{name}">
<h2>{_text(table.title)}</h2>
{_table(table)}
<ul class="notes">{notes}</ul>
{figures}
<h3>Cells</h3>
{cells}
</section>
"""


def _table(table: Comparison) -> str:
    columns = comparison.columns()
    head = "".join(f'<th scope="col">{_text(heading)}</th>' for heading, _ in columns)
    body = ""
    for row in table.rows:
        first, *others = (_text(show(table, row)) for _, show in columns)
        if table.unfinished(row):  # the last column, which tells of it, may be out of sight
            first += f"<small>{_text(comparison.count(table, row))}</small>"
        best = ' class="best"' if row is table.best else ""
        body += f'<tr{best}><th scope="row">{first}</th>'
        body += "".join(f"<td>{text}</td>" for text in others) + "</tr>\n"
    # What scrolls must be reachable by keyboard.
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="{_text(table.title)}">
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody>
</table>
</div>
"""


def _cell(row: Row, cell: StoredRun) -> str:
    error = cell.damage or (cell.result.error if cell.result else None)
    fault = f'<pre class="error">{_text(error)}</pre>' if error else ""
    repeat = f"<p>To repeat it:</p>\n<pre>{_text(cell.command)}</pre>\n" if cell.command else ""
    config = yaml.safe_dump(cell.config, sort_keys=False, allow_unicode=True)
    status = _text(cell.status)
    if cell.status != "finished":
        status = f"<strong>{status}</strong>"
    return f"""<details>
<summary>{_text(row.label)}, seed {cell.seed}: {status}</summary>
{fault}<p>Directory: <code>{_text(str(cell.record.directory))}</code></p>
{repeat}<p>Its config:</p>
<pre>{_text(config)}</pre>
</details>
"""


def _figure(figure: "Figure", name: str, title: str) -> str:
    return f'<figure class="scroll" tabindex="0">\n{_svg(figure, name, title)}\n</figure>\n'


def _svg(figure: "Figure", name: str, title: str) -> str:
    """The figure as an <svg> element of a page.

    Its ids begin with `name`, as those of all pictures share one page; its style rules, which would
    hold for all of the page, become attributes; it is as wide as the page lets it.
    """
    file = io.BytesIO()
    plots.write(figure, file, "svg")
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        element.tag = _plain(element.tag)
        attributes = {_plain(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            element.set(key, _renamed(key, value, name))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    caption = ElementTree.Element("title", {"id": f"{name}-title"})
    caption.text = _clean(title)
    root.insert(0, caption)
    root.attrib |= {
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _plain(name: str) -> str:
    """Without the namespace: inside a page's <svg>, HTML knows it."""
    return name.rpartition("}")[2]


def _renamed(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    return value.replace("url(#", f"url(#{name}-")


def _text(text: str) -> str:
    return escape(_clean(text))


def _clean(text: str) -> str:
    """Control characters and halves of surrogate pairs have no place in HTML."""
    return "".join(c if c.isprintable() or c in "\n\t\u00a0" else "\ufffd" for c in text)


_CSS = """
:root { color-scheme: light dark; --text: #1b1b1b; --quiet: #5c5c5c; --ground: #ffffff;
  --line: #d6d6d6; --soft: #f4f4f2; --fault: #a02c00; --link: #00558c; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e2; --quiet: #a3a3a0; --ground: #17181a; --line: #3b3d40;
    --soft: #222427; --fault: #ff9b73; --link: #7cc0f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 78rem; background: var(--ground);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 2.5rem 0 0.75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
header p, .notes { color: var(--quiet); font-size: 0.875rem; }
.notes { padding-left: 1.2rem; }
a { color: var(--link); }
code, pre { font: 0.8125rem/1.45 ui-monospace, monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8125rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.5rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); overflow-wrap: normal; }
thead th { font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom;
  white-space: normal; }
tbody th { font-weight: 400; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--ground); }
th small { display: block; color: var(--fault); font-size: 0.75rem; font-weight: 400;
  white-space: normal; min-width: 9rem; }
.best th, .best td { font-weight: 700; }
figure { margin: 1rem 0; padding: 0.5rem; background: #ffffff; border: 1px solid var(--line);
  border-radius: 4px; }
figure svg { display: block; width: 100%; min-width: 32rem; max-width: 56rem; height: auto;
  margin: 0 auto; }
details { border-bottom: 1px solid var(--line); padding: 0.3rem 0; font-size: 0.875rem; }
summary { cursor: pointer; }
summary strong, .error { color: var(--fault); }
pre { background: var(--soft); padding: 0.6rem; border-radius: 4px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
@media print {
  :root { --text: #000000; --quiet: #333333; --ground: #ffffff; --line: #bbbbbb; --soft: #ffffff;
    --fault: #7a2200; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  table { font-size: 6.2pt; }
  th, td { padding: 0.15rem 0.2rem; position: static !important; }
  td:last-child { white-space: normal; }
  th small { display: none; }
  figure { break-inside: avoid; border: none; padding: 0; }
  figure svg { min-width: 0; }
  tr { break-inside: avoid; }
}
"""
