"""README.md and docs/, followed to the letter: see tests/documents.py."""

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from safetensors.torch import save_file

from opt_runner.cli import mistakes
from opt_runner.cli import report as opt_report
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.methods import Method
from opt_runner.networks import PlainCNN
from opt_runner.run import size
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import identify
from tests import documents
from tests.cli.conftest import COMMAND, SWEEP, Finished, Run, outcome, results
from tests.cli.test_report import OF_FOUR
from tests.documents import PAGES, Command, File, Shell
from tests.networks.test_published import publish, random_resnet

FOLLOWED = ["docs/extending.md", "docs/how-do-i.md", "docs/tutorial.md"]
# Refusals that need the data.
OF_THE_DATA = re.compile("does not exist|which dataset=")
# Folders and files that the pages leave to the reader.
FOLDERS = re.compile(r"(?<=DATASET=)DIR\b|(?<=root=)DIR\b|(?<==)CIFAR10\b")
# Two steps on four samples, whatever the page says about budgets and hardware.
SHRUNK = [
    "tracking=none", "hardware.device=cpu", "hardware.threads=1", "budget.steps=2", "batch_size=4",
]  # fmt: skip

# The augmentation of the page, which ends its process in a batch, counted from 1.
DYING = """
import os
import signal

import my_augmentation


class Cutout(my_augmentation.Cutout):
    applied = 0

    def apply(self, images, top, left):
        self.applied += 1
        if self.applied == int(os.environ.get("DIES_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().apply(images, top, left)
"""


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder; modules that a page has are found in it, and not by later tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    GlobalHydra.instance().clear()
    enter(tmp_path, monkeypatch)
    yield tmp_path
    forget_modules()


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_modules()
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def refusal(command: Command) -> str | None:
    """Return the message that the page shows for a refused command."""
    first = command.shown[0] if command.shown else ""
    return first.removeprefix("opt-run: ") if first.startswith("opt-run: ") else None


def images(root: Path, classes: int = 10) -> Path:
    """Make a folder of 32 x 32 images, two a class in each half."""
    for number in range(classes):
        for name in ("train/{}/0", "train/{}/1", "test/{}/0", "test/{}/1"):
            path = root / f"{name.format(f'c{number:02}')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((32, 32), 99).convert("RGB").save(path)
    return root


def commands(page: str, folder: Path) -> list[Command]:
    """Return the commands of a page that are not shown to be refused, on folders that are there."""
    given = str(folder / "given")
    all_of_them = [step for step in documents.read(page) if isinstance(step, Command)]
    all_of_them += documents.other_commands(page)
    return [
        replace(command, line=FOLDERS.sub(given, command.line))
        for command in all_of_them
        if refusal(command) is None
    ]


def test_the_shell_takes_every_command() -> None:
    lines = "\n".join(command.line for page in PAGES for command in commands(page, Path()))
    done = subprocess.run(["bash", "-n"], input=lines, text=True, capture_output=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("most", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_every_command_has_keys_and_values_that_there_are(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    """Each combination of keys, and each value, once for all pages: composing is slow.

    most: the number of runs of a command that are looked at.
    """
    images(in_folder / "given")
    known: set[str] = set()
    for page in PAGES:
        enter(in_folder / page, monkeypatch)
        documents.write(page, in_folder / page)
        for command in commands(page, in_folder):
            for number, overrides in enumerate(documents.runs(command)[:most]):
                row = " ".join(sorted(overrides))
                if row in known or (number and known >= set(overrides)):
                    continue
                known |= {row, *overrides}
                try:
                    documents.composed(overrides)
                except UserError as error:
                    raise AssertionError(f"{page}: {command.line}") from error


def test_every_file_and_key_in_the_text_is_there(tmp_path: Path) -> None:
    for page in PAGES:
        documents.write(page, tmp_path)
        assert documents.missing_files(page) == [], page
    known = documents.known_keys(tmp_path / "my_conf")
    for page in PAGES:
        assert documents.keys(page) - known == set(), page


def test_commands_keys_and_files_are_found() -> None:
    found = {page: len(commands(page, Path())) for page in PAGES}
    assert found["README.md"] >= 15
    assert sum(found.values()) >= 100
    assert len(documents.keys("docs/scaling.md")) >= 5
    assert len(documents.spans("docs/reliability.md")) >= 20


def test_all_dependencies_are_named() -> None:
    """Those of the package in README.md, those of each extra in its row of docs/how-do-i.md."""
    required, extras = documents.dependencies_by_extra()
    table = (documents.ROOT / "README.md").read_text().split("## Dependencies")[1]
    assert required - words(table) == set()
    page = (documents.ROOT / "docs/how-do-i.md").read_text()
    for extra, packages in extras.items():
        rows = "".join(re.findall(rf"^\|.*\| `{extra}` \|$", page, re.M))
        assert packages - words(rows) == set(), extra


def words(text: str) -> set[str]:
    found = set(re.findall(r"[\w-]+", text))
    return found | {f"pytest-{name}" for name in found}


@pytest.mark.usefixtures("in_folder")
@pytest.mark.parametrize("page", ["README.md", "docs/any-network.md", "docs/how-do-i.md"])
def test_code_in_the_text_runs(page: str) -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {
        "criterion": torch.nn.functional.cross_entropy,
        "x": torch.randn(4, 3, 16, 16),
        "y": torch.arange(4),
    }
    for block in documents.python_blocks(page):
        names["network"] = PlainCNN(3, (16, 16), 10, convs=3)
        exec(block, names)


def test_results_are_read_with_pandas(
    in_folder: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    finished(*OF_FOUR)
    opt_report.main(["outputs/default"])
    documents.write("docs/how-do-i.md", in_folder)
    capsys.readouterr()
    runpy.run_path("read_results.py")
    shown = capsys.readouterr().out
    assert re.search(r"gs .* 2\n", shown)
    assert re.search(r"\b12 .*\d", shown)


def test_the_page_of_methods_names_their_members() -> None:
    page = (documents.ROOT / "docs/architecture.md").read_text().split("## What a method is")[1]
    rows = re.findall(r"^\| (`.*?) \|", page, re.M)
    members = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert len(members) >= 18
    assert all(hasattr(Method, member) for member in members)


def test_a_step_beyond_the_memory_is_refused_as_shown(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = documents.read("docs/any-network.md")
    (command,) = (one for one in steps if isinstance(one, Command) and refusal(one))
    (overrides,) = documents.runs(command)
    root = images(in_folder / "DIR")
    run = identify(documents.composed([*overrides, "tracking=none", f"dataset.root={root}"]))
    monkeypatch.setattr(size, "free_memory", lambda _: 3 * 2**30)
    with pytest.raises(UserError) as caught:
        execute(run, Screen("none"), in_sweep=False, stop=StopRequest())
    assert str(caught.value) == refusal(command)


@pytest.mark.usefixtures("in_folder")
@pytest.mark.parametrize("page", FOLLOWED)
def test_every_refusal_is_as_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documents.write(page, tmp_path)
    for step in documents.read(page):
        if isinstance(step, Command) and (refused := refusal(step)):
            if OF_THE_DATA.search(refused):
                continue
            monkeypatch.setattr(sys, "argv", shlex.split(step.line))
            with pytest.raises(SystemExit), mistakes.exit_on_error(hydra_runs=True):
                documents.composed(documents.runs(step)[0])
            assert capsys.readouterr().err == f"opt-run: {refused}\n"


def test_a_config_is_as_shown(in_folder: Path) -> None:
    documents.write("docs/tutorial.md", in_folder)
    steps = documents.read("docs/tutorial.md")
    (command,) = (one for one in steps if isinstance(one, Command) and "--cfg job" in one.line)
    (overrides,) = documents.runs(command)
    documents.check_shown(command, documents.job_config(overrides))


@pytest.mark.timeout(1200)
@pytest.mark.slow
# The commands of the tutorial need the files of those before them, and all are followed below.
@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/tutorial.md"])
def test_every_run_can_train(page: str, in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of each: the network takes the images, and the method takes the network."""
    documents.write(page, in_folder)
    for script in in_folder.glob("make_*.py"):
        runpy.run_path(str(script))
    given, published = images(in_folder / "given"), images(in_folder / "published", 100)
    weights = PlainCNN(3, (32, 32), 10, convs=3).state_dict()
    save_file(weights, "net.safetensors")
    torch.save(weights, "net.pt")
    monkeypatch.setenv("TORCH_HOME", str(in_folder))
    publish(random_resnet().state_dict(), in_folder / "hub" / "checkpoints", monkeypatch)
    (in_folder / "text.txt").write_text("a text of a few words, again and again\n" * 99)
    roots = {
        "image_folder": given, "cifar10": given, "cifar100": published,
        "text": in_folder / "text.txt", "graph": "null", "points": "null",
    }  # fmt: skip
    seen = set()
    for command in commands(page, in_folder):
        for overrides in documents.runs(command):
            named = documents.composed(overrides).dataset.name
            at = [f"dataset.root={roots[named]}"] if named in roots else []
            at += ["batch_size=2"] * (named == "graph")  # it has few labelled nodes
            kept = [text for text in overrides if not text.startswith("tracking.")]
            run = identify(documents.composed([*kept, *SHRUNK, *at]))
            if run.signature not in seen:
                seen.add(run.signature)
                result = execute(run, Screen("none"), in_sweep=False, stop=StopRequest())
                assert result is not None
                assert result.status == "finished", f"{command.line}\n{result.error}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", FOLLOWED)
def test_every_command_does_what_is_shown(
    page: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["PATH"] = f"{COMMAND.parent}{os.pathsep}{environment['PATH']}"
    run = Shell(tmp_path, environment)
    documents.write(page, tmp_path)
    for step in documents.read(page):
        if isinstance(step, File):
            continue
        done = run(step.line)
        assert done.returncode == (2 if refusal(step) else 0), f"{step.line}\n{done.stdout}"
        documents.check_shown(step, done.stdout)
    assert all(result["status"] == "finished" for result in results(tmp_path))


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ("plain seed 0: test error 5.01% after 90 steps in 9 s", None),
        ("plain seed 0: test error 5.01% after 91 steps in 2 s", "does not show"),
        ("plain seed 0: test error 6.10% after 90 steps in 2 s", "and gives"),
        ("  a   5.01   0.50   77.1   2", None),
        ("  a   6.10   0.50   77.1   2", "and gives"),
        ("  a   5.01   0.70   77.1   2", "and gives"),
        ("  a   5.01   0.50   77.1   3", "does not show"),
    ],
)
def test_numbers_that_are_shown_are_compared(found: str, fault: str | None) -> None:
    header = "  method   test error %   train loss   seconds   n"
    row = "  a   3.00   0.55   1.2   2"
    sentence = "plain seed 0: test error 3.00% after 90 steps in 2 s"
    shown = (header, row) if found.startswith(" ") else (sentence,)
    command, output = Command("opt-run", shown), f"{header}\n{found}"
    if fault is None:
        documents.check_shown(command, output)
    else:
        with pytest.raises(AssertionError, match=fault):
            documents.check_shown(command, output)


TOGETHER = [
    "--config-dir", "my_conf", "model=two_convolutions", "dataset=stripes", "augment/then=cutout",
    "hardware.threads=1", "tracking=none", "log.every=1",
]  # fmt: skip


@pytest.fixture
def extended(tmp_path: Path, opt_run: Run) -> Run:
    """opt-run in a folder with all files of docs/extending.md."""
    documents.write("docs/extending.md", tmp_path)
    exec((tmp_path / "make_stripes.py").read_text().replace("stripes.npz", f"{tmp_path}/stripes"))
    path = os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH", "")]))

    def run(*arguments: str, **variables: str):
        return opt_run(*arguments, PYTHONPATH=path, **variables)

    return run


@pytest.mark.slow
def test_own_methods_on_an_own_network_with_own_data_and_augmentation(
    extended: Run, tmp_path: Path
) -> None:
    methods = "exponential,low_rank,decorrelated,low_rank_update"
    done = extended("-m", *TOGETHER, "budget.steps=40", f"method={methods}", *SWEEP[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    found = {result["method"]: result for result in results(tmp_path)}
    assert found.keys() == set(methods.split(","))
    for name, result in found.items():
        assert (result["status"], result["model"]) == ("finished", "two_convolutions")
        assert result["train_loss"] < 0.65, "at chance it is log 2 = 0.69"
        rotates = name in ("exponential", "low_rank")
        assert (result["orthogonality_error"] is not None) == rotates
        assert (result["orthogonality_error"] or 0) < 1e-4


@pytest.mark.slow
def test_cut_off_it_ends_as_if_undisturbed(extended: Run, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    arguments = [
        *TOGETHER, "budget.steps=24", "method=low_rank", "augment.then._target_=dying.Cutout",
        "checkpoint.every_steps=4",
    ]  # fmt: skip
    assert extended(*arguments, "experiment_name=uncut").returncode == 0
    cut = extended(*arguments, "experiment_name=cut", DIES_AT="15")
    assert cut.returncode == -signal.SIGKILL
    again = extended(*arguments, "experiment_name=cut")
    assert "resumes from step 12 of 24" in again.stdout
    rows, state = outcome(tmp_path, "cut")
    expected_rows, expected_state = outcome(tmp_path, "uncut")
    assert rows == expected_rows
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[name], expected_state[name]) for name in state)
