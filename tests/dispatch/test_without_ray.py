"""hydra/launcher=ray where Ray is not installed."""

import os
from pathlib import Path

from tests.dispatch.conftest import SMALL, Start


def test_without_ray_one_line_says_what_to_install(start: Start, tmp_path: Path) -> None:
    """Ray is hidden by a finder that says that there is none, as where it was never installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class NoRay:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ray':\n"
        "            raise ModuleNotFoundError(\"No module named 'ray'\")\n"
        "sys.meta_path.insert(0, NoRay())\n"
    )
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    command = start("-m", *SMALL, "hydra/launcher=ray", PYTHONPATH=path)
    assert command.ends() == 2
    assert command.stderr == (
        "opt-run: hydra/launcher=ray needs Ray (No module named 'ray'): pip install ray\n"
    )
    assert not (tmp_path / "outputs").exists()
