"""Files that accompany a release agree with each other, and the pages make a site."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from opt_runner import __version__

ROOT = Path(__file__).parents[1]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def pages(node: Any) -> Iterator[str]:
    """Yield the files of a navigation."""
    if isinstance(node, str):
        yield node
    else:
        for inner in node.values() if isinstance(node, dict) else node:
            yield from pages(inner)


def test_one_version_of_the_package_and_one_of_ruff() -> None:
    latest = re.search(r"^## \[([\d.]+)\] - ([\d-]+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert latest is not None
    citation = read("CITATION.cff")
    assert (citation["version"], str(citation["date-released"])) == latest.groups()
    assert citation["version"] == __version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ruff = [hooks["rev"] for hooks in read(".pre-commit-config.yaml")["repos"]]
    assert f"ruff=={ruff[0].removeprefix('v')}" in project["optional-dependencies"]["dev"]


def test_the_navigation_has_every_page() -> None:
    listed = set(pages(read("mkdocs.yml")["nav"]))
    found = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    assert found <= listed  # mkdocs_hooks.py adds pages that are not in docs/


def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    needed = ("mkdocs", "material", "mkdocstrings_handlers")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: `make docs` installs the extra docs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Over-Parameterized" in (tmp_path / "index.html").read_text()
    assert 'id="opt_runner.OPT.attach"' in (tmp_path / "api/index.html").read_text()
