"""Weights from a file: what fits is taken, what does not is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from opt_runner.errors import UserError
from opt_runner.networks.pretrained import load_weights, read_weights


def network(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, classes))


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "nested.pth", "ddp.ckpt"])
def test_every_form_of_file(tmp_path: Path, name: str) -> None:
    given, taken = network().state_dict(), network()
    path = tmp_path / name
    match name:
        case "net.safetensors":
            save_file(given, path)
        case "net.pt":
            torch.save(given, path)
        case "nested.pth":
            torch.save({"epoch": 3, "state_dict": given}, path)
        case "ddp.ckpt":
            torch.save({f"module.{key}": value for key, value in given.items()}, path)
    load_weights(taken, read_weights(path), path)
    for key, value in taken.state_dict().items():
        assert torch.equal(value, given[key])


def test_names_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    given = network(7).state_dict()
    given["extra.weight"] = torch.zeros(1)
    del given["0.bias"]
    torch.save(given, path)
    with pytest.raises(UserError) as caught:
        load_weights(network(), read_weights(path), path)
    first, *lines = str(caught.value).splitlines()
    assert "does not fit the network; model.weights_except=[PATTERN,...]" in first
    assert lines == [
        "only in the network: 0.bias",
        "only in the file: extra.weight",
        "of another shape: 2.weight (7, 5) for (3, 5), 2.bias (7,) for (3,)",
    ]
    taken = network()
    head = taken[2].weight.clone()
    load_weights(taken, read_weights(path), path, ["2.*", "*.bias", "extra*"])
    assert torch.equal(taken[0].weight, given["0.weight"])
    assert torch.equal(taken[2].weight, head)


class Code:
    """What weights_only refuses to make."""


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.pt", None, "cannot be read: No such file"),
        ("gone.safetensors", None, "cannot be read"),
        ("net.pt", b"no file of torch's", "no file of tensors alone"),
        ("empty.pt", b"", "no file of tensors alone"),
        ("net.safetensors", b"no header", "is damaged"),
        ("code.pt", Code(), "no file of tensors alone"),
        ("list.pt", [torch.zeros(1)], "holds no state_dict"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, name: str, content: object, says: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        load_weights(network(), read_weights(path), path)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
