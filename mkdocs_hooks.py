"""Hooks of mkdocs: pages of the site that are not in docs/, and links that hold on GitHub too."""

import json
import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import opt_runner
from opt_runner.methods import METHODS

ROOT = Path(__file__).parent
# Pages of the site, and their files in the repository.
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
# The members that the library's page shows. A method's options are in its docstring.
_MEMBERS = {
    "OPT": [
        "layers", "summary", "optimizer", "attach", "penalty", "effective", "effective_weights",
        "neurons", "measure", "orthogonality_error", "reset_parameters",
    ],
}  # fmt: skip
_BASES = ["Method", "Rotation", "SquareRotation"]
_OPTION = re.compile(r"^([a-z]\w*(?:, \w+)*): ", re.M)
_LINK = re.compile(r"(\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose text is not in docs/."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "api.md", content=_api()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text with links for the site.

    Links between pages lead to their places on the site. Of links to other files and to folders
    of the repository, only the text stays.
    """
    here = page.file.src_uri
    folder = dirname(PAGES.get(here, join("docs", here)))
    on_site = {source: name for name, source in PAGES.items()}

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match.groups(default="")
        path = normpath(join(folder, target))
        name = on_site.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(name):
            return f"{text}({relpath(name, dirname(here) or '.')}{anchor})"
        return text[1:-1] if (ROOT / path).exists() else match[0]

    return _LINK.sub(link, markdown)


class Options(Extension):
    """Show the arguments and options that a docstring explains as a list."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Make list items of the lines that begin with `name: ` or `name, name: `."""
        if obj.docstring:
            obj.docstring.value = _OPTION.sub(r"\n- `\1`: ", obj.docstring.value)


def _api() -> str:
    """Return the page of the library: the public names of the package, and the methods."""
    parts = ["# Library", "The options have the same names and meanings on the command line."]
    for name in opt_runner.__all__:
        parts.append(_entry(f"opt_runner.{name}", name, _MEMBERS.get(name)))
    parts += ["## Methods", "[methods.md](methods.md) compares them.", "### To derive from"]
    parts += [_entry(f"opt_runner.methods.{name}", name, True, level=4) for name in _BASES]
    parts.append("### By name")
    for name, cls in METHODS.items():
        entry = f"opt_runner.methods.{cls.__name__}"
        parts.append(_entry(entry, f"{name}: {cls.__name__}", False, level=4))
    return "\n\n".join(parts) + "\n"


def _entry(path: str, heading: str, members: object, level: int = 2) -> str:
    options = {
        "heading": heading,
        "heading_level": level,
        "members": members or False,
        "inherited_members": isinstance(members, list),
    }
    return f"::: {path}\n    options: {json.dumps(options)}"
