"""The commands, files and outputs of README.md and docs/, read so that tests can follow them.

A block that begins with `# NAME`, or with `# @package _global_` and `# NAME`, is that file; another
block `python` is code to run. A block `console` has commands, after `$ `, each with lines of its
output; `...` stands for lines left out. Other commands are lines of indented blocks, or stand in
the text between backquotes.
"""

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import dropwhile, zip_longest
from pathlib import Path

import hydra
import yaml
from omegaconf import OmegaConf

from benchmarks import __main__ as benchmarks
from opt_runner.cli import eval as opt_eval
from opt_runner.cli import export as opt_export
from opt_runner.cli import report as opt_report
from opt_runner.cli import sample as opt_sample
from opt_runner.cli import track as opt_track
from opt_runner.config.compose import compose, conf_dir
from opt_runner.config.overrides import assignments, by_key
from opt_runner.config.schema import Config

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)
_FILE_NAME = re.compile(r"(?:# @package _global_\n)?# ([\w./]+\.(?:py|yaml))\n")
_OURS = "run|eval|export|report|sample|track"
_PROGRAM = rf"opt-(?:{_OURS})|make|torchrun|srun|python -m|pip \w+|\S*pytest"
_OUR = rf"(?:\w+=\S+ )*(?:{_PROGRAM}) [\w.'/+@=:-]"
_INDENTED = re.compile(rf"^    ({_OUR}.*)$", re.M)
_INLINE = re.compile(rf"(?<!`)`({_OUR}[^`]*)`(?!`)")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_KEY = re.compile(r"(?:[a-z]\w*/)*[a-z]\w*(?:\.\w+)*=.*|[a-z]\w*(?:\.[a-z_]\w*)+")
_PATH = re.compile(r"[\w./-]*\w(?:\.(?:py|md|yaml|csv|json|png)|/)")
_LINK = re.compile(r"\]\((?!http)([^)#\s]*)(#[^)\s]*)?\)")


@dataclass(frozen=True)
class File:
    """A file that a page has whole."""

    path: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command, and the lines of its output that the page shows."""

    line: str
    shown: tuple[str, ...] = ()


def read(page: str) -> list[File | Command]:
    """Return the files of a page and the commands of its console blocks, in order."""
    steps: list[File | Command] = []
    for kind, text in _BLOCK.findall((ROOT / page).read_text()):
        if named := _FILE_NAME.match(text):
            steps.append(File(named[1], text))
        elif kind == "console":
            for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
                line, _, output = part.replace("\\\n", "").partition("\n")
                steps.append(Command(line, tuple(filter(str.strip, output.splitlines()))))
    return steps


def other_commands(page: str) -> list[Command]:
    """Return the commands of a page that stand in indented blocks and in its text."""
    text = _BLOCK.sub("", (ROOT / page).read_text()).replace("\\\n", " ")
    indented = [line.removesuffix(" ...") for line in _INDENTED.findall(text)]
    inline = [line for line in _INLINE.findall(text) if "..." not in line]
    return [Command(line) for line in indented + inline]


def python_blocks(page: str) -> list[str]:
    """Return the Python code of a page that is no file."""
    found = _BLOCK.findall((ROOT / page).read_text())
    return [text for kind, text in found if kind == "python" and not _FILE_NAME.match(text)]


def spans(page: str) -> list[str]:
    """Return the texts between backquotes."""
    return _SPAN.findall(_BLOCK.sub("", (ROOT / page).read_text()))


def keys(page: str) -> set[str]:
    """Return the dotted keys of the config in the text, also those of assignments."""
    texts = [span for span in spans(page) if "joblib" not in span]
    words = [shlex.split(text) for text in texts if text.count("'") % 2 == 0]
    found = [word for line in words if all(map(_KEY.fullmatch, line)) for word in line]
    tops = {*Config.model_fields, "hydra"}
    dotted = {word.partition("=")[0] for word in found if not _PATH.fullmatch(word)}
    return {key for key in dotted if key.split(".")[0].split("/")[0] in tops}


def missing_files(page: str) -> list[str]:
    """Return the links, with their anchors, and the paths of files that lead nowhere."""
    text = (ROOT / page).read_text()
    links = [((ROOT / page).parent / path, anchor) for path, anchor in _LINK.findall(text)]
    wrong = [f"{path}{anchor}" for path, anchor in links if not _has(path, anchor, page)]
    places = [ROOT, ROOT / "src/opt_runner", (ROOT / page).parent, ROOT / "src/opt_runner/dispatch"]
    inside = {name for place in places[:2] for name in os.listdir(place)} - {"outputs"}
    for span in filter(_PATH.fullmatch, spans(page)):
        of_the_repository = "/" in span.rstrip("/") and span.split("/")[0] in inside
        if of_the_repository and not any((place / span).exists() for place in places):
            wrong.append(span)
    return wrong


def _has(path: Path, anchor: str, page: str) -> bool:
    path = path if path != (ROOT / page).parent else ROOT / page  # an anchor in the page itself
    if not anchor:
        return path.exists()
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return anchor[1:] in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def write(page: str, folder: Path) -> None:
    """Write the files of a page."""
    for file in read(page):
        if isinstance(file, File):
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)


class Shell:
    """Runs the commands of a page in `folder`; variables that they set stay."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        # The pages show what a CPU gives, in a terminal wide enough for whole tables.
        self.environment = {**environment, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}
        self._set: list[str] = []

    def __call__(self, line: str) -> subprocess.CompletedProcess[str]:
        """Return the ended command; its stdout holds stderr as well."""
        # Where the tests of a checkout have a PYTHONPATH, a page's must not hide it.
        kept = f'export PYTHONPATH="$PYTHONPATH:{os.environ.get("PYTHONPATH", "")}"'
        done = self._run(f"{kept}\n{line}")
        if variable := re.match(r"(export )?(\w+)=", line):
            value = self._run(f'{line}\nprintf %s "${variable[2]}"').stdout
            self._set.append(f"{variable[0]}{shlex.quote(value)}")
        return done

    def _run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", "\n".join([*self._set, script])], cwd=self.folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=280, check=False,
        )  # fmt: skip


def runs(command: Command) -> list[list[str]]:
    """Return the overrides of the runs that the command asks for; each value of a key once.

    Commands that train nothing have no runs. Of these the arguments are checked: an AssertionError
    or SystemExit says that a program does not take them.
    """
    words = shlex.split(re.sub(r"\$\(?\w+\)?", "shell", command.line), comments=True)
    if re.match(r"\w+=\$", command.line):
        return []
    name, *arguments = dropwhile(lambda word: "=" in word, words)
    match name:
        case "make":
            dry = ["make", "--dry-run", *arguments, "SCALE=small"]
            shown = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True)
            found = re.findall(r"bin/opt-run ([^;\n]+)", shown.stdout)
            return [run for line in found for run in _each_value(shlex.split(line))]
        case "torchrun":
            ours = dropwhile(lambda word: word != "opt_runner", arguments)
            return _each_value(list(ours)[1:])
        case "opt-run":
            return _each_value(arguments)
        case "srun":
            return _each_value(arguments[arguments.index("opt-run") + 1 :])
        case "python" if arguments[:2] == ["-m", "benchmarks"]:
            benchmarks.parser().parse_args([word for word in arguments[2:] if not word.isupper()])
        case "pip" if arguments[0] == "install":
            wanted = [word for word in arguments[1:] if not word.endswith(".whl")]
            assert set(wanted) <= dependencies(), f"{wanted} are not in pyproject.toml"
        case "pip":
            assert arguments[:3] == ["wheel", "--no-deps", "."]
        case _ if name.endswith("pytest"):
            paths = [word for word in arguments if word.startswith("tests")]
            assert all((ROOT / path).exists() for path in paths)
        case "opt-eval":
            return [opt_eval._parser().parse_args(arguments).overrides]
        case "opt-export" | "opt-report" | "opt-sample" | "opt-track":
            modules = {"opt-export": opt_export, "opt-report": opt_report, "opt-track": opt_track}
            (modules | {"opt-sample": opt_sample})[name]._parser().parse_args(arguments)
        case _:
            # The pages that are followed use it; a test does what they show.
            assert name in ("python", "ls", "grep", "export", "sh"), command.line
    return []


def dependencies() -> set[str]:
    """Return the packages that pyproject.toml names, this one not counted."""
    required, extras = dependencies_by_extra()
    return required.union(*extras.values())


def dependencies_by_extra() -> tuple[set[str], dict[str, set[str]]]:
    """Return the packages that are always installed, and those of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    return _names(project["dependencies"]), {extra: _names(lines) for extra, lines in extras}


def _names(lines: list[str]) -> set[str]:
    return {re.split(r"[\[<>=]", line)[0] for line in lines} - {"opt-runner"}


def known_keys(*folders: Path) -> set[str]:
    """Return the keys of the config, those of every choice of every group, and the groups."""
    known = set()
    for folder in (conf_dir(), *folders):
        for file in folder.rglob("*.yaml"):
            *groups, _ = file.relative_to(folder).parts
            at = "" if "@package _global_" in file.read_text() else ".".join(groups)
            known |= {"/".join(groups), *_dotted(yaml.safe_load(file.read_text()), at)}
    return known


def _dotted(node: object, at: str) -> Iterator[str]:
    yield at
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _dotted(value, f"{at}.{key}".lstrip("."))


def _each_value(arguments: list[str]) -> list[list[str]]:
    overrides = []
    words = iter(arguments)
    for word in words:
        if word == "--config-dir":
            overrides.append(f"hydra.searchpath=['{Path(next(words)).absolute()}']")
        elif word == "--cfg":
            next(words)
        elif word == "--version":
            return []
        elif word != "-m":
            overrides.append(word)
    sweeper = _sweeper([values[0] for values in _values(overrides)])
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    grids = sweeper.get("grids") or [{}]
    found = []
    for grid in grids:
        of_grid = [f"{key}={value}" for key, value in grid.items()]
        values = _values([*params, *of_grid, *overrides])
        firsts = [of_key[0] for of_key in values]
        found += [
            [value or first for value, first in zip(row, firsts, strict=True)]
            for row in zip_longest(*values)
        ] or [[]]
    conditions = filter(None, sweeper.get("conditions") or ())
    return found + [[*found[0], *condition.split()] for condition in conditions]


def _values(overrides: list[str]) -> list[list[str]]:
    """Return the assignments of each key; of an interval in a search the ends."""
    values = []
    for key, override in by_key(overrides).items():
        if override.is_interval_sweep():
            ends = override.value()
            values.append([f"{key}={ends.start}", f"{key}={ends.end}"])
        else:
            values.append(assignments(override))
    return values


def _sweeper(overrides: list[str]) -> dict:
    if any(word.startswith("hydra.searchpath") for word in overrides):
        return _composed_sweeper.__wrapped__(tuple(overrides))  # of files that tests write
    # The values of the other keys do not change it, and composing is slow.
    chosen = [word for word in overrides if word.lstrip("+~").startswith(("experiment=", "hydra"))]
    return _composed_sweeper(tuple(chosen))


@cache
def _composed_sweeper(overrides: tuple[str, ...]) -> dict:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("config", list(overrides), return_hydra_config=True)
    sweeper = OmegaConf.to_container(cfg.hydra.sweeper, resolve=False)
    assert isinstance(sweeper, dict)
    return sweeper


def job_config(overrides: list[str]) -> str:
    """Return the text that `--cfg job` prints."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_yaml(hydra.compose("config", overrides))


def composed(overrides: list[str]):
    """Return the checked config of a run. Raises UserError for keys or values that are not."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides)


# --- Outputs ---

_HASH = re.compile(r"\b[0-9a-f]{12}\b")
_CHANGING = re.compile(r"(\d+ h )?(\d+ min )?\b\d+ s\b|\d+ h \d+ min\b|[\d,.]+ [MG]i?B\b")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?%?")
# How far a number may be from the shown one: (absolute, relative). Other columns are not compared.
_COLUMNS = {"test error %": (3.0, 0.0), "train loss": (0.05, 0.1), "energy excess": (0.1, 0.1)}


def check_shown(command: Command, output: str) -> None:
    """Assert that each line that the page shows is in the output, in that order.

    Whole numbers must be equal, but for times and sizes. Test errors may be 3 points away, losses
    10%; other numbers with a decimal point are not compared.
    """
    lines = iter(output.splitlines())
    header: list[str] = []
    for shown in command.shown:
        if shown.strip() == "...":
            continue
        cells = re.split(r" {2,}", shown.strip())
        if "test error %" in cells:
            header = cells
        wanted = _words(shown)
        for line in lines:
            if _words(line) == wanted:
                break
        else:
            raise AssertionError(f"{command.line}\ndoes not show\n{shown}\nbut\n{output}")
        found = re.split(r" {2,}", line.strip())
        if header and len(cells) == len(found) == len(header):
            for name, old, new in zip(header, cells, found, strict=True):
                if name in _COLUMNS:
                    _compare(command, old, new, *_COLUMNS[name])
        elif "test error" in shown:
            _compare(command, shown, line, *_COLUMNS["test error %"])


def _words(line: str) -> str:
    """Return the line with # for all that may change: hashes, times, sizes, decimal numbers."""
    line = _CHANGING.sub("#", _HASH.sub("#", line))
    line = _NUMBER.sub(lambda m: "#" if set(m[0]) & {".", "e", "%"} else m[0], line)
    return " ".join(re.sub(r"[─━]+", "─", line).split())


def _compare(command: Command, old: str, new: str, absolute: float, relative: float) -> None:
    pairs = zip(_decimals(old), _decimals(new), strict=True)
    for shown, found in pairs:
        assert abs(found - shown) <= absolute + relative * abs(shown), (
            f"{command.line}\nshows\n{old}\nand gives\n{new}"
        )


def _decimals(text: str) -> list[float]:
    return [float(n.rstrip("%")) for n in re.findall(r"[-+]?\d+\.\d+%?", text.split("±")[0])]
