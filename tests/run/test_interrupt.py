"""Signals: the first is a request, the second is itself again."""

import os
import pickle
import signal
import subprocess
import sys

import pytest

from opt_runner.run.interrupt import Interrupted, stop_requests


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_a_request_and_the_second_stops_at_once(signum: signal.Signals) -> None:
    program = f"""
import os, signal
from opt_runner.run.interrupt import raised_signals, stop_requests
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
with raised_signals(), stop_requests() as stop:
    os.kill(os.getpid(), {int(signum)})
    print(stop.signum, flush=True)
    try:
        os.kill(os.getpid(), {int(signum)})
        print("still here")
    except KeyboardInterrupt:
        print("stopped")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(int(signum)), "stopped"]


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2])
def test_pre_emption_is_passed_on_once_the_run_has_stopped(signum: signal.Signals) -> None:
    """submitit's handler requeues the job and ends the process: it must come last."""
    told: list[str] = []
    before = signal.signal(signum, lambda number, frame: told.append("requeue"))
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signum)
            assert stop.signum == signum
            told.append("saved")
        assert told == ["saved", "requeue"]
    finally:
        signal.signal(signum, before)


def test_sigterm_beside_an_announcement_asks_to_save_and_go_on() -> None:
    """Slurm sends it some seconds before it kills the job, and requeues the job itself."""
    before = {
        one: signal.signal(one, handler)
        for one, handler in (
            (signal.SIGUSR2, lambda number, frame: None),
            (signal.SIGTERM, signal.getsignal(signal.SIGTERM)),
        )
    }
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stop.signum, stop.save) == (None, True)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_an_interruption_travels_between_processes() -> None:
    sent = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert (sent.signum, str(sent)) == (signal.SIGTERM, "SIGTERM")


def test_a_terminal_that_is_closed_asks_to_stop_however_often_it_says_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with stop_requests() as stop:
            for _ in range(2):  # of the kernel and of the shell
                os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum == signal.SIGHUP
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nohup_holds() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)
