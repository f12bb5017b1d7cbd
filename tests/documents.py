"""Documents that a reader can follow to the letter: their files and commands, in order.

A block that begins with `# NAME`, or with `# @package _global_` and `# NAME`, is that file. A block
`console` has commands, after `$ `, each with lines of its output; `...` stands for lines left out.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from opt_runner.cli import eval as opt_eval
from opt_runner.cli import export as opt_export
from opt_runner.cli import report as opt_report
from opt_runner.config.compose import compose, conf_dir

DOCS = Path(__file__).parents[1] / "docs"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)
_NAME = re.compile(r"(?:# @package _global_\n)?# ([\w./]+\.(?:py|yaml))\n")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]\d+)?")


@dataclass(frozen=True)
class File:
    path: str
    text: str


@dataclass(frozen=True)
class Command:
    line: str
    shown: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)


def read(name: str) -> list[File | Command]:
    """The files and commands of docs/NAME."""
    steps: list[File | Command] = []
    for kind, text in _BLOCK.findall((DOCS / name).read_text()):
        if named := _NAME.match(text):
            steps.append(File(named[1], text))
        elif kind == "console":
            steps += _commands(text)
    return steps


def _commands(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        line, _, output = part.replace("\\\n", "").partition("\n")
        yield Command(line, tuple(shown for shown in output.splitlines() if shown.strip()))


def write(file: File, folder: Path) -> None:
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.text)


class Shell:
    """Runs the commands of a document in `folder`; variables that they set stay."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        # The documents show what a CPU gives, in a terminal wide enough for whole tables.
        self.environment = {**environment, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}
        self._set: list[str] = []

    def __call__(self, line: str) -> subprocess.CompletedProcess[str]:
        """stdout holds stderr as well."""
        # Where the tests of a checkout have a PYTHONPATH, a document's must not hide it.
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


def check_shown(command: Command, output: str) -> None:
    """Each line that the document shows is in the output, in that order, but for the numbers."""
    lines = iter(map(_without_numbers, output.splitlines()))
    for shown in command.shown:
        if shown.strip() != "...":
            assert _without_numbers(shown) in lines, (
                f"{command.line}\ndoes not show\n{shown}\nbut\n{output}"
            )


def _without_numbers(line: str) -> str:
    line = re.sub(r"\b[0-9a-f]{12}\b", "#", line)
    line = re.sub(r"(\d+ h )?(\d+ min )?\d+ s\b|\d+ h \d+ min\b", "#", line)
    return " ".join(re.sub(r"[─━]+", "─", _NUMBER.sub("#", line)).split())


def check_composes(command: Command) -> None:
    """The command has options and keys that there are, with values that are allowed.

    Raises what the command would show, where it has not; in the folder of the document's files.
    """
    name, *arguments = [re.sub(r"\$\(?\w+\)?", "shell", word) for word in command.words]
    if name == "opt-run":
        for overrides in _runs(arguments):
            _compose(overrides)
    elif name == "opt-eval":
        given = opt_eval._parser().parse_args(arguments)
        _compose(given.overrides)
    elif name in ("opt-export", "opt-report"):
        module = opt_export if name == "opt-export" else opt_report
        module._parser().parse_args(arguments)


def _compose(overrides: list[str]) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose("config", overrides)


def _runs(arguments: list[str]) -> Iterator[list[str]]:
    """The overrides of a run; of a sweep as many runs as show each value of each key once."""
    overrides = []
    words = iter(arguments)
    for word in words:
        if word == "--config-dir":
            overrides.append(f"hydra.searchpath=['{Path(next(words)).absolute()}']")
        elif word == "--cfg":
            next(words)
        elif word != "-m":
            overrides.append(word)
    values = []
    for word in overrides:
        override = OverridesParser.create().parse_override(word)
        key = override.get_key_element()
        swept = override.is_sweep_override()
        values.append([f"{key}={v}" for v in override.sweep_string_iterator()] if swept else [word])
    for i in range(max(map(len, values))):
        yield [of_key[i % len(of_key)] for of_key in values]
