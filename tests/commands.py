"""Commands of this package in processes of their own, without the time that their imports take.

A start of opt-run takes 4 s of processor time, nearly all of it for imports. `Process` and `run`
are `subprocess.Popen` and `subprocess.run` for the commands. A server, one for each process of
pytest, has imported what they import. It forks a child for each command, and the child executes the
installed script. Tests about the start itself use `subprocess`.

The workers of opt-run's pool are forked likewise, from a process that each opt-run leaves beside
itself before it does anything else.

The server has no threads, no open files and no GPU, and executes nothing but imports. So a child
differs from a started command in these points: its hash seed is the server's, and /proc shows the
server's command line and environment.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

# Imports read them: a command that has another value than this process is really started.
READ_BY_IMPORTS = (
    "CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "MKL_NUM_THREADS", "MPLBACKEND", "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONWARNINGS",
)  # fmt: skip
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# os.fork and pidfd_open; elsewhere all commands are really started.
CAN_FORK = hasattr(os, "pidfd_open")
# Not wandb: it makes a temporary folder when it is imported, which the first child would remove.
IMPORTED = [
    "torch._dynamo", "scipy.special", "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg", "hydra_plugins.opt_runner.launchers",
    "hydra_plugins.opt_runner.sweepers",
]  # fmt: skip


def run(
    arguments: list[Any], *, cwd: Path, env: Mapping[str, str], timeout: float = 200
) -> subprocess.CompletedProcess[str]:
    """Execute a script to its end. Its output is captured; any exit code is returned."""
    process = start(arguments, cwd=cwd, env=env)
    try:
        stdout, stderr = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def start(
    arguments: list[Any],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdout: int | IO[Any] = subprocess.PIPE,
    stderr: int | IO[Any] = subprocess.PIPE,
    start_new_session: bool = False,
) -> "Started":
    """Start a Python script, as those of the installed commands, with its arguments.

    SIGINT interrupts it also if this process ignores SIGINT.
    """
    if CAN_FORK and all(env.get(name) == os.environ.get(name) for name in READ_BY_IMPORTS):
        return Process(arguments, cwd, env, stdout, stderr, start_new_session)
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=env, text=True, stdout=stdout,
        stderr=stderr, start_new_session=start_new_session, preexec_fn=_take_sigint,
    )  # fmt: skip


def _take_sigint() -> None:
    # What a shell starts in the background ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Process:
    """A command in a child of the server. The members are as those of `subprocess.Popen`."""

    def __init__(
        self,
        arguments: list[Any],
        cwd: Path,
        env: Mapping[str, str],
        stdout: int | IO[Any],
        stderr: int | IO[Any],
        start_new_session: bool,
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self.stdout, out = _stream(stdout)
        self.stderr, err = (None, os.dup(out)) if stderr == subprocess.STDOUT else _stream(stderr)
        self._texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._readers: list[threading.Thread] = []
        self._status, its_end = socket.socketpair()
        request = {
            "argv": list(map(str, arguments)), "cwd": str(cwd), "env": dict(env),
            "session": start_new_session,
        }  # fmt: skip
        with its_end:
            descriptors = [its_end.fileno(), 0, out, err]
            socket.send_fds(_server()[1], [json.dumps(request).encode()], descriptors)
        os.close(out)
        os.close(err)
        self.pid = self._receive()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = self._receive()
            except TimeoutError as error:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from error
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Return (stdout, stderr), None for a stream that is no pipe, when both have ended."""
        end = None if timeout is None else time.monotonic() + timeout
        if not self._readers:
            for name, text in self._texts.items():
                if stream := getattr(self, name):
                    # A daemon, because a process that the command has left may keep the pipe open.
                    read = threading.Thread(target=lambda s=stream, t=text: t.append(s.read()))
                    read.daemon = True
                    read.start()
                    self._readers.append(read)
        for reader in self._readers:
            reader.join(None if end is None else max(0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if end is None else max(0.1, end - time.monotonic()))
        for stream in filter(None, (self.stdout, self.stderr)):
            stream.close()
        return tuple(text[0] if text else None for text in self._texts.values())

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        """Return the next number from the server: the process id, then the exit code."""
        if not (text := self._status.recv(16)):
            raise RuntimeError("the server of tests/commands.py has ended: see its traceback")
        return int(text)


Started = Process | subprocess.Popen[str]


def _stream(given: int | IO[Any]) -> tuple[IO[str] | None, int]:
    """Return our end, if it is a pipe, and the descriptor for the command."""
    if given == subprocess.PIPE:
        ours, its = os.pipe()
        return open(ours, encoding="utf-8"), its
    if given == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    assert not isinstance(given, int)
    return None, os.dup(given.fileno())


@functools.cache
def _server() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # OpenBLAS would start threads as numpy is imported. The other variable is as opt-run sets it.
    once = {"OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000"}
    with its:
        process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**once, **os.environ},
        )  # fmt: skip
    return process, ours


def end_server() -> None:
    """End the server, if there is one. Commands that still run are left alone."""
    if _server.cache_info().currsize:
        process, connection = _server()
        connection.close()
        process.wait()
        _server.cache_clear()


# --- The server ---

_codes: list[int] = []  # of a child that ends without a traceback


def _import() -> None:
    """Import what commands import, but for Ray and other packages that are slow and seldom used."""
    import opt_runner

    names = [one.name for one in pkgutil.walk_packages(opt_runner.__path__, "opt_runner.")]
    for name in IMPORTED + [one for one in names if not one.endswith((".ray", "__main__"))]:
        importlib.import_module(name)


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork a child for each request. Returns the request in the child; None when there are no more.

    A request is answered by the child's process id and, when it has ended, its exit code.
    """
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is connection:
                content, descriptors, _, _ = socket.recv_fds(connection, 2**20, 4)
                if not content:
                    return None
                pid = os.fork()
                if pid == 0:
                    for number, descriptor in enumerate(descriptors[1:]):
                        os.dup2(descriptor, number)
                    selector.close()  # later it would close a file of the command
                    connection.close()
                    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                    return json.loads(content)
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                os.write(descriptors[0], b"%d" % pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[0]))
            else:
                pid, status = key.data
                _, code = os.waitpid(pid, 0)
                with contextlib.suppress(OSError):  # nobody waits for it
                    os.write(status, b"%d" % os.waitstatus_to_exitcode(code))
                selector.unregister(key.fd)
                os.close(status)
                os.close(key.fd)


def _become(request: Mapping[str, Any]) -> None:
    """Execute the command or the worker: the last act of a child."""
    _take_sigint()
    if request.get("session"):
        os.setsid()
    if os.path.basename(request["argv"][0]) == "opt-run":
        request = _with_workers(request)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # Each process draws numbers of its own; those of `random` are so without help.
    sys.modules["torch"].default_generator.seed()
    sys.modules["numpy"].random.seed()
    sys.argv[:] = request["argv"]
    # The first entry is this file's folder.
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [os.path.dirname(sys.argv[0]), *map(os.path.abspath, given)]
    try:
        if "program" in request:
            exec(request["program"], {"__name__": "__main__"})
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        _codes.append(0)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            _codes.append(end.code or 0)
        raise


def _with_workers(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Have the pool fork its workers. Returns the request; in a worker's process the worker's.

    A worker must be a child of its command, so its parent, a child of the process beside the
    command, ends at once, and the command adopts it.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        its.close()
        set_child_subreaper = 36  # linux/prctl.h
        ctypes.CDLL(None).prctl(set_child_subreaper, 1)
        pool = sys.modules["opt_runner.dispatch.local"]
        pool.subprocess = SimpleNamespace(Popen=functools.partial(_start_worker, ours))  # type: ignore[attr-defined]
        return request
    ours.close()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.close(nothing)
    for one in ENDING:
        signal.signal(one, signal.SIG_IGN)
    while True:
        content, descriptors, _, _ = socket.recv_fds(its, 2**20, 4)
        if not content:
            os._exit(0)
        if parent := os.fork():
            os.waitpid(parent, 0)
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        parent = os.getpid()
        if os.fork():
            os._exit(0)
        asked: dict[str, Any] = json.loads(content)
        signal.pthread_sigmask(signal.SIG_BLOCK, asked["blocked"])
        for one in ENDING:
            signal.signal(one, signal.SIG_DFL)
        _take_sigint()
        for number, descriptor in enumerate(descriptors[1:]):
            os.dup2(descriptor, number)
        while os.getppid() == parent:
            time.sleep(0.001)
        os.write(descriptors[0], b"%d" % os.getpid())
        its.detach()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        return asked


def _start_worker(
    server: socket.socket, arguments: list[str], env: Mapping[str, str], **streams: Any
) -> Any:
    """Start a worker as `subprocess.Popen` does, for the pool."""
    threads = os.environ.get("OMP_NUM_THREADS")
    given = {name: env.get(name) for name in READ_BY_IMPORTS}
    kept = {name: os.environ.get(name) for name in READ_BY_IMPORTS}
    if threads and given["MKL_NUM_THREADS"] == threads:  # which it is without that variable
        given["MKL_NUM_THREADS"] = kept["MKL_NUM_THREADS"]
    if given != kept:
        return subprocess.Popen(arguments, env=env, **streams)
    blocked = [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
    request = {
        "argv": ["-c"], "program": arguments[-1], "cwd": os.getcwd(), "env": dict(env),
        "blocked": blocked,
    }  # fmt: skip
    ours, its = socket.socketpair()
    files = [streams[name] for name in ("stdin", "stdout", "stderr")]
    numbers = [one if isinstance(one, int) else one.fileno() for one in files]
    with ours, its:
        socket.send_fds(server, [json.dumps(request).encode()], [its.fileno(), *numbers])
        return _Worker(int(ours.recv(16)))


class _Worker:
    """A worker's process. The members are as those of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.returncode is None:  # until it is waited for, its number is no other process's
            os.kill(self.pid, signum)


def _leave() -> None:
    """End a child after all other exit handlers: taking the modules apart takes 0.4 s."""
    if _codes:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(_codes[0] & 0xFF)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with pytest
    atexit.register(_leave)  # the first is called last
    _import()
    gc.collect()
    gc.freeze()
    if request := _serve(socket.socket(fileno=int(sys.argv[1]))):
        _become(request)
