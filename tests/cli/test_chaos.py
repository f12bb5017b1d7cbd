"""Sweeps over all methods, killed at random moments and with damaged files, end as undisturbed.

A short form runs with the other tests; `make chaos` sets OPT_CHAOS_KILLS for the long one.
"""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import COMMAND
from tests.small import SOME_METHODS

KILLS = int(os.environ.get("OPT_CHAOS_KILLS", "3"))
SEED = int(os.environ.get("OPT_CHAOS_SEED", "0"))
SWEEP = [
    "-m", f"method={','.join(SOME_METHODS)}", "model=mlp", "model.widths=[32,24]", "tracking=none",
    "hardware.threads=1", f"budget.steps={300 if KILLS > 9 else 100}", "evaluate.every=50",
    "checkpoint.every_steps=20",
    "progress=plain",
]  # fmt: skip
LAUNCHERS = {
    "pool": ["hydra.launcher.slots=2"],  # the default
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
}
if KILLS > 9:
    LAUNCHERS["basic"] = ["hydra/launcher=basic"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 if KILLS < 10 else 0)]


@dataclass
class Counts:
    """What was done to the sweeps."""

    kills: int = 0  # of all of a sweep's processes
    workers: int = 0  # killed alone, while their sweep went on
    sweeps: int = 0
    damaged: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        damaged = ", ".join(f"{n} x {name}" for name, n in sorted(self.damaged.items()))
        kills = f"{self.kills} kills of all processes, {self.workers} of one worker"
        return f"{kills}, in {self.sweeps} sweeps; damaged: {damaged or 'nothing'}"


def launch(tmp_path: Path, environment: dict[str, str], name: str, launcher: str) -> Any:
    # A group of its own: its children, as a launcher's, are killed with it.
    return subprocess.Popen(
        [COMMAND, *SWEEP, *LAUNCHERS[launcher], f"experiment_name={name}"],
        cwd=tmp_path, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def communicate(process: Any, patience: float | None) -> str | None:
    """All that it wrote; None where it has not ended by then."""
    try:
        return process.communicate(timeout=patience)[0]
    except subprocess.TimeoutExpired:
        return None


def kill_a_worker(process: Any, chance: random.Random) -> bool:
    """As the kernel does where memory runs out; False where the sweep ends before it has one."""
    while process.poll() is None:
        with suppress(OSError):  # a process that has just ended
            if workers := workers_of(process.pid):
                os.kill(chance.choice(workers), signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


def workers_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task").glob("*/children")  # by the thread that started them
    pids = [pid for thread in children for pid in thread.read_text().split()]
    return [int(p) for p in pids if b"dispatch.worker" in Path(f"/proc/{p}/cmdline").read_bytes()]


def outcomes(tmp_path: Path, name: str) -> dict[str, Any]:
    """By method: the rows without their times, the result likewise, the weights."""
    found = {}
    for path in tmp_path.glob(f"outputs/{name}/**/result.json"):
        result = json.loads(path.read_text())
        rows = [json.loads(line) for line in path.with_name("metrics.jsonl").open()]
        for timed in (result, *rows):
            timed.pop("seconds", None), timed.pop("samples_per_second", None)
        result.pop("metrics_size")  # of the times in it, too
        weights = load_file(path.with_name("weights.safetensors"))
        found[result["method"]] = (result, rows, weights)
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys() == set(SOME_METHODS)
    for method, (result, rows, weights) in expected.items():
        assert found[method][0] == result, method
        assert found[method][1] == rows, method
        assert weights.keys() == found[method][2].keys()
        for key, value in weights.items():
            assert torch.equal(value, found[method][2][key]), (method, key)


def damage_something(tmp_path: Path, name: str, chance: random.Random, counts: Counts) -> None:
    """Truncate a file of the sweep, or change a byte of it, now and then.

    Not the metrics of a finished run: what is lost of those is said, and not trained again.
    """
    files = [
        path
        for pattern in ("checkpoint.pt", "result.json", "metrics.jsonl")
        for path in tmp_path.glob(f"outputs/{name}/**/{pattern}")
        if path.stat().st_size
        and (path.suffix != ".jsonl" or not path.with_name("result.json").exists())
    ]
    if not files or chance.random() < 0.5:
        return
    path = chance.choice(files)
    content = bytearray(path.read_bytes())
    if chance.random() < 0.5 or path.suffix != ".pt":
        path.write_bytes(content[: chance.randrange(len(content))])
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    counts.damaged[path.name] = counts.damaged.get(path.name, 0) + 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_nothing_is_lost(
    launcher: str, tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    chance, counts = random.Random(f"{SEED} {launcher}"), Counts()
    started = time.monotonic()
    uncut = launch(tmp_path, environment, "uncut", launcher)
    assert uncut.wait(timeout=300) == 0, uncut.stdout.read()
    whole = time.monotonic() - started
    expected = outcomes(tmp_path, "uncut")

    while counts.kills < KILLS:
        name = f"cut{counts.sweeps}"
        counts.sweeps += 1
        while True:
            process = launch(tmp_path, environment, name, launcher)
            # Often in the loading of libraries, mostly in the middle of a run.
            patience = chance.uniform(0.15, 0.5) * whole if counts.kills < KILLS else None
            output = communicate(process, patience)
            # No more than one a command: a run has one retry.
            alone = launcher == "pool" and (not counts.workers or chance.random() < 0.5)
            if output is None and alone and kill_a_worker(process, chance):
                counts.workers += 1
                output = communicate(process, patience)
            if output is None:
                signum = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                os.killpg(process.pid, signum)
                process.communicate(timeout=120)
                counts.kills += 1
                if signum == signal.SIGKILL:
                    damage_something(tmp_path, name, chance, counts)
                continue
            assert process.returncode == 0, output
            assert "Traceback" not in output
            break
        assert_same(outcomes(tmp_path, name), expected)
    assert launcher != "pool" or counts.workers
    with capsys.disabled():
        print(f"\nchaos, {launcher}: {counts}; nothing lost")
