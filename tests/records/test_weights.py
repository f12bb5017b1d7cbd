"""weights.safetensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from opt_runner.datasets import Interface
from opt_runner.errors import UserError
from opt_runner.records import weights
from opt_runner.records.weights import read_interface

TAKES = Interface(
    "images",
    (3, 4, 6),
    "logits",
    {"in_channels": 3, "image_size": (4, 6), "num_classes": 2},
    classes=["cat", "dog"],
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5, bias=False)
        self.second = nn.Linear(5, 5, bias=False)
        self.second.weight = self.first.weight

    def get_extra_state(self) -> dict[str, int]:
        return {"no": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        raise AssertionError


def test_the_same_network_is_the_same_file(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    weights.write(tmp_path / "one", network, TAKES)
    weights.write(tmp_path / "two", network.to(memory_format=torch.channels_last), TAKES)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert weights.read_interface(tmp_path / "one") == TAKES
    taken = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    weights.load(tmp_path / "one", taken)
    for name, value in network.state_dict().items():
        assert torch.equal(taken.state_dict()[name], value)


def test_tied_weights_stand_under_each_name(tmp_path: Path) -> None:
    network = Tied()
    weights.write(tmp_path / "net", network, TAKES)
    taken = nn.ModuleDict({"first": nn.Linear(5, 5, False), "second": nn.Linear(5, 5, False)})
    for fits in (taken, again := Tied()):
        weights.load(tmp_path / "net", fits)
    for layer in (*taken.values(), again.first, again.second):
        assert torch.equal(layer.weight, network.first.weight)


def test_weights_of_another_network(tmp_path: Path) -> None:
    weights.write(tmp_path / "net", nn.Linear(3, 2), TAKES)
    for other, why in ((nn.Linear(2, 3), "size mismatch"), (nn.Linear(3, 2, False), "bias is in")):
        with pytest.raises(UserError, match=f"does not fit the network, .*: {why}") as caught:
            weights.load(tmp_path / "net", other)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["channels", "size", "classes"])
@pytest.mark.parametrize(
    "value", [None, "x", "3", 0, -1, 1.5, True, 10**30, [], [0, 1], [1, 2, 3], {"a": 1}, ["\ud800"]]
)
def test_tampered_metadata_are_one_line(tmp_path: Path, key: str, value: Any) -> None:
    known = {"channels": 3, "size": [4, 6], "classes": ["cat", "dog"], key: value}
    save_file({"a": torch.zeros(1)}, tmp_path / "net", {"opt_runner": json.dumps(known)})
    with pytest.raises(UserError, match="net is damaged: ") as caught:
        read_interface(tmp_path / "net")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"channels": 1e999}'])
def test_metadata_that_are_no_json_are_one_line(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "net", {"opt_runner": text})
    with pytest.raises(UserError, match="net is damaged: "):
        read_interface(tmp_path / "net")
