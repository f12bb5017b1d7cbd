"""The pool: signals at any moment, workers that die, what they write, and what a terminal shows."""

import os
import pty
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, ClassVar

import hydra
import pytest

from opt_runner.config.compose import compose, conf_dir
from opt_runner.config.schema import Hardware
from opt_runner.console.screen import Screen
from opt_runner.dispatch import local
from opt_runner.dispatch.local import Pool, PoolOptions
from opt_runner.dispatch.loop import Died, End, Task, dispatch
from opt_runner.dispatch.worker import Job
from opt_runner.run import device
from opt_runner.run.device import default_threads
from opt_runner.run.run import Run, identify
from opt_runner.sweep.sweep import Listed, Sweep
from tests.dispatch.conftest import (
    COMMAND,
    SMALL,
    Command,
    Start,
    results,
    trainings,
    write_component,
)

LONG = ["-m", *SMALL, "budget.steps=100000", "evaluate.every=100000", "checkpoint.every_steps=50"]
TWO = ["method=standard,cayley,gs", "hydra.launcher.slots=2"]
CHECKPOINTS = "outputs/default/**/checkpoint.pt"

METHODS = """
import os, signal, time
from opt_runner.methods import Cayley, method_options

@method_options
class Killed(Cayley):
    def penalty(self, layer, W, V, step, R):
        print("about to be killed")
        os.kill(os.getpid(), signal.SIGKILL)

@method_options
class Leaves(Cayley):
    def penalty(self, layer, W, V, step, R):
        os._exit(3)

@method_options
class Talks(Cayley):
    def penalty(self, layer, W, V, step, R):
        print("a word of mine", end="")
        return V.sum() * 0

@method_options
class Sleeps(Cayley):
    def penalty(self, layer, W, V, step, R):
        time.sleep(100)
"""


def test_a_signal_saves_what_runs(start: Start, tmp_path: Path) -> None:
    command = start(*LONG, *TWO)
    command.until(CHECKPOINTS, 2)
    command.process.send_signal(signal.SIGTERM)
    assert command.ends() == 143
    assert "SIGTERM: the runs save and end; send the signal again to kill them" in command.stdout
    found = results(tmp_path)
    assert found.keys() == {"standard", "cayley"}
    assert {result["status"] for result in found.values()} == {"interrupted"}
    assert "1 of 3 runs have not begun" in command.stdout
    assert command.stderr == "opt-run: interrupted; the same command resumes\n"


@pytest.mark.slow
def test_a_second_signal_does_not_wait(start: Start, tmp_path: Path) -> None:
    arguments = write_component(tmp_path, METHODS, ["sleeps"])
    modules = f"{os.environ.get('PYTHONPATH', '')}:{tmp_path / 'modules'}"
    command = start(*arguments, *LONG, "method=sleeps", PYTHONPATH=modules)
    command.until("outputs/default/**/metrics.jsonl")
    command.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 30
    while "the runs save and end" not in command.stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    command.process.send_signal(signal.SIGINT)
    assert command.ends() == 130
    assert "sleeps mlp digits seed 0: not finished" in command.stdout
    assert "Traceback" not in command.stderr


def test_a_signal_while_workers_start(start: Start, tmp_path: Path) -> None:
    """They are about to import torch, or do."""
    # With a number of threads of their own the workers are not forked.
    command = start(*LONG, *TWO, "hardware.threads=7")
    command.until("outputs/.sweep/*/slot-1.log")
    command.process.send_signal(signal.SIGINT)
    assert command.ends() == 130
    assert "3 of 3 runs have not begun" in command.stdout
    assert command.stderr == "opt-run: interrupted; the same command resumes\n"


@pytest.mark.slow
def test_workers_without_their_launcher_save_and_end(start: Start, tmp_path: Path) -> None:
    command = start(*LONG, *TWO)
    directories = [path.parent for path in command.until(CHECKPOINTS, 2)]
    command.process.kill()
    deadline = time.monotonic() + 60
    while not all((directory / "result.json").exists() for directory in directories):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {result["status"] for result in results(tmp_path).values()} == {"interrupted"}
    workers = [int((one / "lock").read_text().split()[1]) for one in directories]
    while any(Path(f"/proc/{worker}/exe").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def troubled(start_in: Start, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A sweep over methods of the user's, found on PYTHONPATH alone, whose workers die."""
    folder = tmp_path_factory.mktemp("troubled")
    arguments = write_component(folder, METHODS, ["killed", "talks"])
    modules = f"{os.environ.get('PYTHONPATH', '')}:{folder / 'modules'}"
    command = start_in(
        folder, "-m", *arguments, *SMALL, "budget.steps=2", "method=killed,talks",
        "hydra.launcher.slots=2", PYTHONPATH=modules,
    )  # fmt: skip
    assert command.ends() == 1, command.stdout + command.stderr
    return command


@pytest.mark.slow
def test_a_run_whose_worker_dies_twice_has_a_result_that_says_so(troubled: Command) -> None:
    found = results(troubled.folder)
    statuses = {name: result["status"] for name, result in found.items()}
    assert statuses == {"killed": "failed", "talks": "finished"}
    killed = "its worker was killed by SIGKILL (by somebody, or as memory ran out)"
    assert found["killed"]["error"] == f"{killed}, in each of 2 tries"
    assert f"killed mlp digits seed 0: {killed}: it is retried" in troubled.stdout
    assert f"killed mlp digits seed 0: failed: {killed}, in each" in troubled.stdout, "the table"
    (log,) = troubled.folder.glob("outputs/default/**/killed/*/run.log")
    assert killed in log.read_text()
    assert len([line for line in trainings(troubled.folder) if "killed mlp" in line]) == 2


def test_what_a_method_prints_is_in_its_slots_log_and_on_the_screen(troubled: Command) -> None:
    logs = "".join(log.read_text() for log in troubled.folder.glob("outputs/.sweep/*/slot-*.log"))
    for words in ("a word of minea word of mine", "about to be killed"):
        assert words in logs
        assert words in troubled.stdout
    assert troubled.stderr == ""


@pytest.mark.slow
def test_progress_none_shows_failures_alone(start: Start, tmp_path: Path) -> None:
    arguments = write_component(tmp_path, METHODS, ["leaves"])
    modules = f"{os.environ.get('PYTHONPATH', '')}:{tmp_path / 'modules'}"
    command = start(
        "-m", *arguments, *SMALL, "budget.steps=2", "method=leaves,standard",
        "progress=none", "hydra.launcher.retries=0", PYTHONPATH=modules,
    )  # fmt: skip
    assert command.ends() == 1
    assert command.stdout == ""
    failed = "leaves mlp digits seed 0: failed"
    said = "its worker ended with exit code 3"
    assert command.stderr.splitlines() == [f"{failed}, {said}", f"{failed}: {said}"]


@pytest.mark.slow
def test_bars_in_a_terminal_and_its_interrupt_key(
    tmp_path: Path, session_environment: dict[str, str]
) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        words = [str(COMMAND), *LONG, *TWO]
        os.execve(COMMAND, words, {**session_environment, "TERM": "xterm", "COLUMNS": "140"})
    shown = bytearray()

    def read() -> None:
        try:
            while piece := os.read(terminal, 4096):
                shown.extend(piece)
        except OSError:  # it is over
            pass

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 100
    while b"steps/s" not in shown:
        assert time.monotonic() < deadline, shown.decode()
        time.sleep(0.05)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(process, 0)
    reader.join()
    os.close(terminal)
    text = shown.decode()
    assert os.waitstatus_to_exitcode(status) == 130, text
    assert "━" in text
    for words in ("0/3", "none failed", "starts", "standard mlp digits seed 0", "/100000 loss"):
        assert words in text.replace("\x1b[0m", ""), words
    assert "sweep: " not in text, "lines are for where there are no bars"
    assert "Traceback" not in text


# The loop and the pool, with workers that only play their part.


class ActingWorker:
    """answers: what befalls the run of a seed, try by try; without any it goes well."""

    answers: ClassVar[dict[int, list[str | Exception]]] = {}
    started: ClassVar[list[Mapping[str, str]]] = []
    jobs: ClassVar[list[Job]] = []
    closed: ClassVar[list[Mapping[str, str]]] = []

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.started.append(environment)
        self.environment = environment
        self.connection, self._end = Pipe()

    def send(self, job: Job) -> None:
        self.jobs.append(job)
        self._end.send(job.content["seed"])

    def answer(self) -> str | None:
        answers = self.answers.get(self.connection.recv())
        if not answers:
            return None
        if isinstance(answers[0], Exception):
            raise answers.pop(0)
        return answers.pop(0)

    def close(self) -> None:
        self.closed.append(self.environment)


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> type[ActingWorker]:
    for name, empty in (("answers", {}), ("started", []), ("jobs", []), ("closed", [])):
        monkeypatch.setattr(ActingWorker, name, empty)
    monkeypatch.setattr(local, "Worker", ActingWorker)
    for name in ("available_cores", "default_threads"):
        monkeypatch.setattr(local, name, lambda: 8)
    monkeypatch.setattr(local, "visible_gpus", list)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return ActingWorker


def runs(folder: Path, count: int, *overrides: str) -> list[Run]:
    words = [*SMALL, "budget.steps=1", f"output_dir={folder}", *overrides]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return [
            identify(compose("config", [*words, f"seed={seed}"]), check_device=False)
            for seed in range(count)
        ]


def options(**given: Any) -> PoolOptions:
    return PoolOptions.read({"slots": None, "runs_per_gpu": 1, "retries": 1, **given})


def execute(left: list[Run], mode: str = "none", **given: Any) -> None:
    pool = Pool(options(**given), Sweep(left, asked=len(left), here=True), Screen(mode))
    dispatch(Listed(left), pool, at_once=len(left))


def test_no_more_workers_than_runs(acting: type[ActingWorker], tmp_path: Path) -> None:
    execute(runs(tmp_path, 1), slots=3)
    assert len(acting.started) == 1
    assert acting.started[0]["OMP_NUM_THREADS"] == "1"
    assert acting.closed == acting.started


def test_a_worker_takes_run_after_run(acting: type[ActingWorker], tmp_path: Path) -> None:
    execute(runs(tmp_path, 3), slots=1)
    assert len(acting.started) == 1
    assert [job.content["seed"] for job in acting.jobs] == [0, 1, 2]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_each_retry_has_a_new_worker_and_there_is_an_end(
    retries: int, acting: type[ActingWorker], tmp_path: Path
) -> None:
    acting.answers[0] = [Died("ended") for _ in range(10)]
    left = runs(tmp_path, 2)
    execute(left, slots=1, retries=retries)
    seeds = [job.content["seed"] for job in acting.jobs]
    assert sorted(seeds) == [0] * (1 + retries) + [1]
    assert len(acting.started) == len(acting.closed) >= 1 + retries
    result = left[0].record.read_result()
    assert result is not None
    assert result.status == "failed"
    assert not result.settled, "the same command tries it again"


def test_what_a_worker_could_not_record_is_recorded(
    acting: type[ActingWorker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acting.answers[0] = ["the data are gone"]
    left = runs(tmp_path, 1)
    execute(left)
    result = left[0].record.read_result()
    assert result is not None
    assert (result.status, result.error) == ("failed", "the data are gone")
    assert "standard" not in capsys.readouterr().out


def test_a_rerun_that_is_tried_again_goes_on(acting: type[ActingWorker], tmp_path: Path) -> None:
    """The old record is set aside once: the second try must not do that to the new one."""
    (run,) = runs(tmp_path, 1, "rerun=true")
    run.record.directory.mkdir(parents=True)
    run.record.checkpoint.write_text("of the old record")
    acting.answers[0] = [Died("ended")]
    execute([run])
    assert [job.content["rerun"] for job in acting.jobs] == [False, False]
    (aside,) = run.record.directory.parent.glob("*.old-*")
    assert (aside / "checkpoint.pt").read_text() == "of the old record"


def test_a_rerun_of_a_run_that_another_process_has_is_left_to_the_worker(
    acting: type[ActingWorker], tmp_path: Path
) -> None:
    (run,) = runs(tmp_path, 1, "rerun=true")
    run.record.directory.mkdir(parents=True)
    run.record.checkpoint.write_text("of another process")
    with run.record.held(lambda holder: None):
        execute([run])
    assert [job.content["rerun"] for job in acting.jobs] == [True]
    assert run.record.checkpoint.exists()


def test_an_error_here_has_the_workers_save_and_end(
    acting: type[ActingWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = []
    monkeypatch.setattr(ActingWorker, "signal", lambda self, one: signals.append(one), False)
    left = runs(tmp_path, 2)
    pool = Pool(options(slots=2), Sweep(left, asked=2, here=True), Screen("none"))
    monkeypatch.setattr(pool, "poll", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dispatch(Listed(left), pool, at_once=2)
    assert signals == [signal.SIGTERM] * 2
    assert len(acting.closed) == 2


# Slots.


def hardware(device: str, threads: int | None = None) -> Hardware:
    return composed(device, threads).config.hardware


def composed(device: str, threads: int | None = None) -> Run:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        words = [f"hardware.device={device}", f"hardware.threads={threads or 'null'}"]
        return identify(compose("config", [*words, "tracking=none"]), check_device=False)


@pytest.mark.parametrize(
    ("device", "threads", "gpus", "given", "expected"),
    [
        ("auto", None, [], {}, [(None, 8)]),
        ("auto", 3, [], {}, [(None, 3)] * 2),
        ("auto", 9, [], {}, [(None, 9)]),
        ("auto", None, [], {"slots": 3}, [(None, 2)] * 3),
        ("auto", 1, [], {"slots": 3}, [(None, 1)] * 3),
        ("auto", None, ["4", "7"], {}, [("4", 4), ("7", 4)]),
        ("auto", 1, ["4", "7"], {"runs_per_gpu": 2}, [("4", 1), ("7", 1)] * 2),
        ("cuda", None, ["4", "7"], {"slots": 3}, [("4", 2), ("7", 2), ("4", 2)]),
        ("cuda:1", None, ["4", "7"], {}, [("7", 8)]),
        ("cpu", 4, ["4", "7"], {}, [(None, 4)] * 2),
    ],
)
def test_slots(
    device: str, threads: int | None, gpus: list[str], given: dict[str, Any],
    expected: list[tuple[str | None, int]], monkeypatch: pytest.MonkeyPatch,
    acting: type[ActingWorker],
) -> None:  # fmt: skip
    monkeypatch.setattr(local, "visible_gpus", lambda: gpus)
    found = options(**given).slots_for(hardware(device, threads))
    assert [(slot.gpu, slot.threads) for slot in found] == expected


def test_omp_num_threads_is_the_default_of_a_run_alone_and_in_a_sweep(
    acting: type[ActingWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert default_threads() == 2
    execute(runs(tmp_path, 5, "hardware.threads=null"), mode="plain")
    assert [one["OMP_NUM_THREADS"] for one in acting.started] == ["2"] * 4
    said = "OMP_NUM_THREADS=2: each run has so many threads, and up to 4 are executed at once"
    assert said in capsys.readouterr().out


def test_without_a_number_a_run_has_all_cores_alone_and_in_a_sweep(
    acting: type[ActingWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_TORCHS_THREADS", 8)
    monkeypatch.setattr(device, "available_cores", lambda: 3)  # a container's quota
    monkeypatch.setattr(local, "available_cores", lambda: 3)
    monkeypatch.setattr(local, "default_threads", default_threads)
    (slot,) = options().slots_for(hardware("cpu"))
    assert slot.threads == default_threads() == 3


class Several(Pool):
    """Keeps which devices ran at the same time."""

    together: ClassVar[list[list[tuple[str, str | None]]]] = []

    def poll(self) -> list[tuple[Task, End]]:
        running = self._running.items()
        self.together.append(
            sorted((task.run.config.hardware.device, slot.gpu) for slot, task in running)
        )
        slot = next(iter(self._running))
        return [(self._running.pop(slot), None)]


@pytest.mark.parametrize(
    ("threads", "given", "expected"),
    [
        # The CPU's runs take all cores: they come one by one after the GPUs' runs.
        (None, {}, [["cuda0", "cuda1"], ["cuda1", "cuda0"], ["cuda0"], ["cpu"], ["cpu"]]),
        (2, {}, [["cpu", "cpu", "cuda0", "cuda1"], ["cpu", "cuda0", "cuda1"], ["cuda0", "cuda1"],
                 ["cuda0", "cuda1"], ["cuda0"]]),
        (2, {"slots": 2}, [["cpu", "cpu"], ["cpu", "cuda0"], ["cuda0", "cuda1"], ["cuda0", "cuda1"],
                           ["cuda0"]]),
    ],
)  # fmt: skip
def test_runs_of_different_hardware_have_slots_of_their_own(
    threads: int | None, given: dict[str, Any], expected: list[list[str]],
    acting: type[ActingWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(Several, "together", [])
    words = f"hardware.threads={threads or 'null'}"
    cpu = runs(tmp_path, 2, "hardware.device=cpu", words)
    cuda = runs(tmp_path, 3, "hardware.device=cuda", words)
    left = [*cpu, *cuda] if threads else [*cuda, *cpu]
    pool = Several(options(**given), Sweep(left, asked=5, here=True), Screen("none"))
    dispatch(Listed(left), pool, at_once=5)
    found = [[f"{device}{gpu or ''}" for device, gpu in one] for one in Several.together]
    assert [sorted(one) for one in found] == [sorted(one) for one in expected]
