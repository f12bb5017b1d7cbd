"""The tree is as docs/architecture.md says: no room imports a higher one, files are short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(SRC.rglob("*.py"))

# Low to high.
ROOMS = [
    {"errors", "files", "machine", "transfer"},
    {"methods", "module_types", "heads", "layers", "candidates", "coverage", "choice", "recompute",
     "geometry", "wrapper", "effective", "optimizers", "stepping", "opt", "summary", "networks",
     "datasets"},
    {"config"}, {"records"}, {"console"}, {"tracking"}, {"run"}, {"trained", "report"}, {"sweep"},
    {"dispatch"}, {"cli", "hydra_plugins"},
]  # fmt: skip
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
MOST_LINES = 320


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the modules that a file imports, also in its functions, but not for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imported(child)


def room(module: str) -> str | None:
    """Return the room of a module of ours; None for other packages and for the package itself."""
    parts = module.split(".")
    if parts[0] == "hydra_plugins":
        return "hydra_plugins"
    return parts[1] if parts[0] == "opt_runner" and len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_no_room_imports_a_higher_one(path: Path) -> None:
    here = room(".".join(path.relative_to(SRC).with_suffix("").parts))
    if here not in LEVELS:  # the package's own __init__ and __main__
        return
    found = {room(module) for module in imported(ast.parse(path.read_text()))}
    higher = {one for one in found if one in LEVELS and LEVELS[one] > LEVELS[here]}
    assert not higher


def test_every_room_has_a_level() -> None:
    package = SRC / "opt_runner"
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__main__", "__pycache__", "conf"} <= LEVELS.keys()


def test_no_file_is_long() -> None:
    long = {str(path.relative_to(SRC)): n for path in FILES
            if (n := len(path.read_text().splitlines()))
            > MOST_LINES}  # fmt: skip
    assert not long


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {".".join(p.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): p
               for p in FILES}  # fmt: skip
    tops = {
        name: {m for m in top_level(path) if m in modules and m != name}
        for name, path in modules.items()
    }
    while leaves := [name for name, needed in tops.items() if not needed]:
        for leaf in leaves:
            del tops[leaf]
        for needed in tops.values():
            needed.difference_update(leaves)
    assert not tops, "what is left imports itself, by way of others"


def top_level(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports as it is imported itself."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            files = [
                name for name in names if (SRC / Path(*name.split("."))).with_suffix(".py").exists()
            ]
            yield from files or [node.module]
