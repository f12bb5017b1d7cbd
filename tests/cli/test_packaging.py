"""conf/ is found wherever the command runs: in the checkout, in a wheel made from the sdist."""

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from opt_runner import __version__
from tests.cli.conftest import COMMAND

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a clean environment that holds a wheel built from the sdist, and the dependencies.

    The dependencies are those of this environment: its editable opt-runner is not seen, as a
    path file is not read in a folder that a path file names.
    """
    folder = tmp_path_factory.mktemp("package")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, "--sdist", str(CHECKOUT)], check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    subprocess.run([*build, "--wheel", str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(ours))
    return folder / "env/bin"


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_wheel_from_the_sdist_runs_from_anywhere(
    installed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    where = [installed / "python", "-c", "import opt_runner; print(opt_runner.__file__, end='')"]
    found = subprocess.run(where, capture_output=True, text=True, check=True, cwd=tmp_path)
    package = Path(found.stdout).parent
    assert package.is_relative_to(installed.parent)
    assert (package / "py.typed").is_file()
    assert files(package / "conf") == files(CHECKOUT / "conf")
    shown = subprocess.run(
        [installed / "opt-run", "--info", "searchpath"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert "site-packages/opt_runner/conf" in shown.stdout
    arguments = ["method=sopt", "model=mlp", "model.widths=[8,8]", "budget.steps=3"]
    done = subprocess.run(
        [installed / "opt-run", *arguments, "tracking=none"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("outputs/default/digits/mlp/sopt/*/result.json"))
    for name in ("opt-run", "opt-report", "opt-eval", "opt-export", "opt-track"):
        version = subprocess.run(
            [installed / name, "--version"], capture_output=True, text=True, check=True
        )
        assert version.stdout == f"opt-runner {__version__}\n"
    told = subprocess.run(
        [installed / "opt-report"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "</html>" in (tmp_path / "outputs/report/report.html").read_text()


def test_the_editable_install_reads_the_checkouts_conf(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    shown = subprocess.run(
        [COMMAND, "--info", "searchpath"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert os.fspath(CHECKOUT / "conf") in shown.stdout
