"""The programs of docs/frameworks.md run as they stand."""

import runpy
import warnings
from pathlib import Path

import pytest

from tests import documents

PAGE = "docs/frameworks.md"
PROGRAMS = [step for step in documents.read(PAGE) if isinstance(step, documents.File)]
LIBRARIES = {
    "with_trainer.py": "transformers",
    "with_accelerate.py": "accelerate",
    "with_lightning.py": "lightning",
    "with_pyg.py": "torch_geometric",
    "with_diffusers.py": "diffusers",
    "with_peft.py": "peft",
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.path)
def test_a_program(
    program: documents.File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(LIBRARIES[program.path])
    monkeypatch.chdir(tmp_path)
    Path(program.path).write_text(program.text)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "a step was made without|no optimizer has")
        runpy.run_path(program.path)


def test_every_library_has_a_program() -> None:
    assert {program.path for program in PROGRAMS} == LIBRARIES.keys()
