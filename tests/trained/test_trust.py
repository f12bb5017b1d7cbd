"""Of a record's config nothing runs but this package's components, unless the user says so."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from opt_runner.cli import eval as opt_eval
from opt_runner.cli import export as opt_export
from opt_runner.errors import UserError
from opt_runner.trained import Trust, evaluate, read

COMMANDS = {"opt-eval": opt_eval.main, "opt-export": opt_export.main}
Stranger = Callable[..., Path]


@pytest.fixture
def stranger(record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """Return a finished record with other nodes in its config; the folder is the current one."""
    monkeypatch.chdir(tmp_path)

    def change(**nodes: Any) -> Path:
        folder = tmp_path / record.name
        shutil.copytree(record, folder)
        config = folder / "config.yaml"
        content = yaml.safe_load(config.read_text())
        content |= {key: content[key] | node for key, node in nodes.items()}
        config.write_text(yaml.safe_dump(content))
        return folder

    return change


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "node",
    [{"_target_": "os.system", "command": "touch RUN"},
     {"_target_": "opt_runner.files.remove_abandoned", "folder": "."},
     {"_target_": "opt_runner.datasets.Digits"},
     {"_target_": "hydra._internal.utils._locate", "path": "evil"}],
    ids=lambda node: node["_target_"],
)  # fmt: skip
def test_other_code_is_not_run(
    stranger: Stranger, capsys: pytest.CaptureFixture[str], command: str, node: dict[str, str]
) -> None:
    folder = stranger(model=node)
    with pytest.raises(SystemExit) as ended:
        COMMANDS[command]([str(folder)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"{command}: {folder}/config.yaml: the record's model would run {node['_target_']}("
    )
    assert "--trust" in line
    assert not Path("RUN").exists()


def test_not_even_an_import(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("evil.py").write_text("open('RUN', 'w')\ndef run(): ...\n")
    monkeypatch.syspath_prepend(".")
    evil = {"_target_": "evil.run"}
    folder = stranger(method=evil, augment={"then": {"name": "a", **evil}}, dataset=evil)
    trained = read(folder)
    with pytest.raises(UserError, match=r"dataset would run evil\.run\("):
        evaluate(trained, trained.config)
    with pytest.raises(SystemExit):
        opt_eval.main([str(folder), "hardware.threads=1"])
    opt_eval.main([str(folder), "dataset=digits", "hardware.threads=1"])
    opt_export.main([str(folder)])
    assert not Path("RUN").exists()


def test_a_model_of_the_users_own(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "trusted_net.py").write_text("from opt_runner.networks import PlainCNN as Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = stranger(model={"_target_": "trusted_net.Net"})
    with pytest.raises(UserError, match=r"model would run trusted_net\.Net\(.*widths=\[8, 8, 8\]"):
        read(folder)
    own = tmp_path / "conf" / "model"
    own.mkdir(parents=True)
    (own / "net.yaml").write_text("name: net\n_target_: trusted_net.Net\n")
    for trust in (Trust(everything=True), Trust(folder=own.parent)):
        assert read(folder, trust).interface.shape[0] == 1
    opt_export.main([str(folder), "--trust", "--out", "a.safetensors"])
    opt_export.main([str(folder), "--config-dir", str(own.parent), "--out", "b.safetensors"])
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("target", "option"),
    [
        ("from_torchvision", "pretrained"),
        ("from_timm", "checkpoint_path"),
        ("from_timm", "pretrained"),
    ],
)
def test_no_option_of_a_model_loads_a_file(stranger: Stranger, target: str, option: str) -> None:
    content = {"_target_": f"opt_runner.networks.{target}", "arch": "resnet18", option: "evil.pth"}
    folder = stranger(model=content)
    config = folder / "config.yaml"
    node = yaml.safe_load(config.read_text())
    node["model"] = {"name": "net", **content}
    config.write_text(yaml.safe_dump(node))
    with pytest.raises(UserError, match=rf"model\.{option}: weights are loaded from a file"):
        read(folder)
