"""A forked command is as a started one; and each command starts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import commands
from tests.cli.conftest import COMMAND, TINY

pytestmark = pytest.mark.skipif(not commands.CAN_FORK, reason="all commands are started")

PROGRAM = """
import atexit, gc, json, logging, os, signal, sys, tempfile, threading, time

handlers = {int(one): str(signal.getsignal(one)) for one in signal.valid_signals()}
gc.unfreeze()
everything = gc.get_objects()
# Some releases of torch make a folder for modules as they are imported.
torchs = getattr(sys.modules.get("torch.distributed.nn.jit.instantiator"), "_TEMP_DIR", None)
print(json.dumps({
    "arguments": sys.argv, "name": __name__, "file": sys.modules["__main__"].__file__,
    "folder": os.getcwd(), "environment": dict(os.environ),
    "path": [one for one in sys.path if one != getattr(torchs, "name", None)],
    "handlers": {key: value.split(" at ")[0] for key, value in handlers.items()},
    "leads a session": os.getsid(0) == os.getpid(), "files": sorted(os.listdir("/proc/self/fd")),
    "threads": threading.active_count(), "tasks": len(os.listdir("/proc/self/task")),
    "encodings": [sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors],
    "buffering": [sys.stdout.line_buffering, sys.stderr.line_buffering],
    "folders": sum(
        type(one) is tempfile.TemporaryDirectory and one is not torchs for one in everything
    ),
    "log handlers": len(logging.getLogger().handlers), "input": sys.stdin.read(),
}))
if "torch" in sys.modules:
    assert not sys.modules["torch"].cuda.is_initialized()
    hydra = sys.modules["hydra.core.global_hydra"].GlobalHydra
    assert not hydra.instance().is_initialized()
atexit.register(print, "at exit")
print("an error", file=sys.stderr)
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread"))).start()
"""
ENDS = {
    "": (0, ""),
    "sys.exit()": (0, ""),
    "sys.exit(3)": (3, ""),
    "sys.exit('no')": (1, "no\n"),
    "1 / 0": (1, "ZeroDivisionError: division by zero\n"),
    "os.kill(os.getpid(), signal.SIGTERM)": (-signal.SIGTERM, ""),
}


@pytest.mark.parametrize(("end", "session"), [*((end, False) for end in ENDS), ("", True)])
def test_a_forked_process_is_as_a_started_one(tmp_path: Path, end: str, session: bool) -> None:
    (tmp_path / "program.py").write_text(f"{PROGRAM}{end}")
    arguments = [tmp_path / "program.py", "a", "b c"]
    environment = {**os.environ, "PYTHONPATH": f".:{tmp_path / 'modules'}", "MINE": "x"}
    environment.pop("HOME", None)
    forked = commands.start(arguments, cwd=tmp_path, env=environment, start_new_session=session)
    assert isinstance(forked, commands.Process)
    outputs = forked.communicate(60)
    started = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, text=True, check=False,
        capture_output=True, start_new_session=session,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    code, said = ENDS[end]
    assert forked.returncode == started.returncode == code, outputs[1]
    assert outputs[0].splitlines()[1:] == started.stdout.splitlines()[1:]
    assert ("at exit" in outputs[0]) == (code >= 0)
    for stderr in (outputs[1], started.stderr):
        assert stderr.startswith("an error\n")
        assert stderr.endswith(said)
    found, expected = (json.loads(out.partition("\n")[0]) for out in (outputs[0], started.stdout))
    assert found == expected


def test_signals_and_waits(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import time; print('begun', flush=True); time.sleep(100)")
    process = commands.start([program], cwd=tmp_path, env=os.environ, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert process.poll() is None
    for wait in (process.wait, process.communicate):
        with pytest.raises(subprocess.TimeoutExpired):
            wait(timeout=0.1)
    process.send_signal(signal.SIGINT)
    text, none = process.communicate(timeout=60)
    assert "\nKeyboardInterrupt\n" in text  # Triton may write more as the process ends
    assert none is None
    assert process.poll() == process.returncode == -signal.SIGINT
    process.kill()  # of an ended process, and perhaps of another one's number: does nothing
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        commands.run([program], cwd=tmp_path, env=os.environ, timeout=0.1)
    assert time.monotonic() - began < 90


def test_a_variable_that_imports_read_starts_a_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys; print(len(sys.modules))")
    arguments, environment = [tmp_path / "program.py"], {**os.environ, "OMP_NUM_THREADS": "17"}
    many = commands.run(arguments, cwd=tmp_path, env=os.environ)
    few = commands.run(arguments, cwd=tmp_path, env=environment)
    assert int(few.stdout) < 500 < int(many.stdout)


def test_each_process_draws_numbers_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import random, numpy, torch\n"
        "print(random.random(), numpy.random.random(), float(torch.rand(())))\n"
    )
    forked = [commands.run([tmp_path / "program.py"], cwd=tmp_path, env=os.environ) for _ in "ab"]
    first, second = (done.stdout.split() for done in forked)
    assert len({*first, *second}) == 6


@pytest.mark.slow
def test_each_command_starts(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}

    def started(name: str, *arguments: str) -> str:
        done = subprocess.run(
            [COMMAND.with_name(name), *arguments], cwd=tmp_path, env=os.environ | variables,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    started("opt-run", *TINY, "tracking=none")
    (result,) = tmp_path.glob("outputs/default/*/*/*/*/result.json")
    record = str(result.parent)
    assert "written: " in started("opt-report", "outputs")
    assert "written: " in started("opt-export", record)
    assert "test error" in started("opt-eval", record, "hardware=cpu")
    assert "finished, sent" in started("opt-track", record)
    assert "opt-runner" in started("opt-sample", "--version")
