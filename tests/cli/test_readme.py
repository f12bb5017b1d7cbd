"""The README's own example of a user's method, as it stands there."""

import re
from pathlib import Path

from tests.cli.conftest import TINY, Run, results

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(marker: str) -> str:
    (text,) = [b for b in re.findall(r"```\w+\n(.*?)```", README, re.S) if b.startswith(marker)]
    return text


def test_the_example_method(opt_run: Run, tmp_path: Path) -> None:
    (tmp_path / "my_opt.py").write_text(block("# my_opt.py"))
    path = tmp_path / "my_conf" / "method" / "exponential.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(block("# my_conf/method/exponential.yaml"))
    arguments = ["--config-dir", "my_conf", "method=exponential", "tracking=none"]
    done = opt_run(*arguments, *TINY, PYTHONPATH=".")
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path)
    assert result["method"] == "exponential"
    assert result["orthogonality_error"] < 1e-4
    refused = opt_run(*arguments, "method.strength=-1", PYTHONPATH=".")
    assert refused.returncode == 2
    assert "method.strength: must be greater than 0, got -1" in refused.stderr
