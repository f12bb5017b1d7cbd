"""A real Slurm of one node, from Debian's packages, unpacked and not installed.

No root, no munge, no file outside of a folder of its own and of the packages' cache. Two
partitions: a job in `high` pre-empts one in `low`, which is told by its signal, and requeued.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PACKAGES = (
    "libhwloc15", "liblua5.1-0", "libmunge2", "slurm-client", "slurm-wlm-basic-plugins",
    "slurmctld", "slurmd",
)  # fmt: skip
CORES = 4  # as many as Slurm is told, whatever there are: the jobs are small
_START_SECONDS = 20.0
_CONF = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
# So soon a requeued job may start again (the least there is); by default after two minutes.
AuthInfo=cred_expire=5
PluginDir={plugins}
SlurmUser={user}
SlurmdUser={user}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class CannotBeHad(Exception):
    """Why there is no Slurm here."""


class Cluster:
    """Runs from `start` to `stop`. environment: what a process needs to be on it."""

    def __init__(self, packages: Path, folder: Path) -> None:
        library = next(packages.glob("usr/lib/*-linux-gnu"))
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        # The packages' programs have their usual names only once installed.
        for program in packages.glob("usr/bin/*-wlm"):
            (folder / "bin" / program.name.removesuffix("-wlm")).symlink_to(program)
        for program in packages.glob("usr/bin/*"):
            if not program.name.endswith("-wlm"):
                (folder / "bin" / program.name).symlink_to(program)
        conf = folder / "slurm.conf"
        conf.write_text(
            _CONF.format(
                host=socket.gethostname().split(".")[0], folder=folder, cores=CORES,
                plugins=library / "slurm-wlm", ports=_free_ports(2),
                user=subprocess.check_output(["id", "-un"], text=True).strip(),
            )
        )  # fmt: skip
        self.environment = {
            "SLURM_CONF": str(conf),
            "LD_LIBRARY_PATH": f"{library}:{library / 'slurm-wlm'}",
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }
        programs = packages / "usr/sbin"
        self._folder = folder
        self._commands = (
            [programs / "slurmctld-wlm", "-D"],
            [programs / "slurmd-wlm", "-D", "-d", programs / "slurmstepd-wlm"],
        )
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Raises CannotBeHad with the daemons' last words."""
        log = self._folder / "daemons.log"
        environment = {**os.environ, **self.environment}
        with log.open("wb") as file:
            for command in self._commands:
                self._daemons.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdout=file,
                        stderr=file,
                        preexec_fn=_end_with_parent,
                    )
                )
        until = time.monotonic() + _START_SECONDS
        while self("sinfo", "-h", "-p", "low", "-o", "%T").strip() != "idle":
            if time.monotonic() > until:
                self.stop()
                raise CannotBeHad(f"Slurm does not start: {log.read_text()[-500:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        self("scancel", "--me")
        until = time.monotonic() + _START_SECONDS
        while self("squeue", "-h", "-t", "running,completing") and time.monotonic() < until:
            time.sleep(0.1)
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(timeout=_START_SECONDS)

    def __call__(self, *command: str) -> str:
        """What one of Slurm's commands writes; nothing where it fails."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout

    def jobs(self, name: str = "") -> dict[str, str]:
        """State by id of the jobs that wait or run, and whose name starts so."""
        lines = self("squeue", "-h", "-r", "-o", "%i|%T|%j").splitlines()
        parts = [line.split("|", 2) for line in lines]
        return {job_id: state for job_id, state, its_name in parts if its_name.startswith(name)}


def _end_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def unpacked() -> Path:
    """The packages' files: downloaded once, kept in the user's cache. Raises CannotBeHad."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise CannotBeHad("it is taken from Debian's packages, and there is no apt-get here")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opt-runner-tests"
    root = cache / "slurm"
    if root.is_dir():
        return root
    partial = cache / f"slurm.{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        if not _download(partial):
            # Lists of packages may be missing or old.
            _apt("update", "-qq", cwd=partial)
            if not _download(partial):
                raise CannotBeHad("apt-get cannot download its packages")
        for package in partial.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, partial], check=True)
            package.unlink()
        with contextlib.suppress(OSError):  # another test process was first
            partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _download(folder: Path) -> bool:
    return _apt("download", "-qq", *PACKAGES, cwd=folder)


def _apt(*arguments: str, cwd: Path) -> bool:
    quick = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10"]
    done = subprocess.run(
        ["apt-get", *quick, *arguments], cwd=cwd, capture_output=True, check=False, timeout=120
    )
    return done.returncode == 0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
