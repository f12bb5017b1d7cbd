"""Weights of torchvision by name. Files of random weights stand for those of its servers."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from opt_runner.config.signature import signature
from opt_runner.console.screen import Screen
from opt_runner.datasets import Digits, loaded
from opt_runner.errors import UserError
from opt_runner.networks.published import Published
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import identify
from opt_runner.run.set_up import Setup, set_up
from opt_runner.trained import evaluate, read
from tests.config.test_config import composed

NAMED = ["model=torchvision", "model.arch=resnet18", "model.weights=IMAGENET1K_V1"]
SMALL = ["method=gs", "layers.max_d=64", "hardware=cpu", "hardware.threads=1", "budget.steps=1",
         "batch_size=4", "dataset.size=32", "dataset.share=0.05", "tracking=none"]  # fmt: skip
WITHOUT_SERVERS = "opt_runner.networks.published.torch.hub.download_url_to_file"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub, and no network."""

    def fail(url: str, *rest: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(WITHOUT_SERVERS, fail)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def put(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], Path]:
    return lambda content: publish(content, cache, monkeypatch)


def publish(content: object, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publish a file in torchvision's own enum, whose name holds its digest, as theirs do."""
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(content, cache / "new.pth")
    digits = hashlib.sha256((cache / "new.pth").read_bytes()).hexdigest()[:8]
    path = (cache / "new.pth").rename(cache / f"resnet18-{digits}.pth")
    weights = models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(weights, "url", f"https://download.pytorch.org/models/{path.name}")
    return path


def random_resnet() -> nn.Module:
    torch.manual_seed(7)
    return models.resnet18()


def prepared(*overrides: str) -> Setup:
    return set_up(composed(*NAMED, *SMALL, *overrides), loaded(Digits()))


def test_a_missing_file_is_named_in_one_line(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        Published.of("resnet18", "IMAGENET1K_V1").fetch()
    assert str(caught.value) == (
        f"model.weights=IMAGENET1K_V1: {cache}/resnet18-f37072fd.pth is missing, and "
        "https://download.pytorch.org/models/resnet18-f37072fd.pth cannot be fetched (no route to "
        "host): put the file there"
    )


def test_it_is_fetched_once_and_compared_with_its_digest(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        asked.append(hash_prefix)
        Path(path).write_bytes(b"other")

    monkeypatch.setattr(WITHOUT_SERVERS, fetch)
    for _ in range(2):
        with pytest.raises(UserError, match=r"is not the published file: its SHA-256 begins with "
                                            r"d9298a10; delete it, or give [^\n]*$"):  # fmt: skip
            Published.of("resnet18", "IMAGENET1K_V1").fetch()
    assert asked == ["f37072fd"]


def test_the_network_starts_from_it_but_for_its_classifier(put: Callable[[object], Path]) -> None:
    put(random_resnet().state_dict())
    setup = prepared()
    own, given = setup.opt.network.state_dict(), random_resnet().state_dict()
    assert {name for name in given if not torch.equal(own[name], given[name])} == {
        "fc.weight", "fc.bias",
    }  # fmt: skip
    assert own["fc.weight"].shape == (10, 512)
    assert setup.remarks == [
        "model.weights=IMAGENET1K_V1 has 1,000 classes: fc.weight, fc.bias start anew",
        "model.weights=IMAGENET1K_V1 was trained on images of 224 x 224, these are 32 x 32: "
        "dataset.size=224 resizes them",
    ]


def test_its_images_are_scaled_as_its_own_were(put: Callable[[object], Path]) -> None:
    put(random_resnet().state_dict())
    setup = prepared("dataset.size=224")
    assert len(setup.remarks) == 1
    x = setup.data.network_input(setup.data.test.inputs[:2], torch.float32)
    grey = setup.data.test.inputs[:2].expand(-1, 3, -1, -1)
    theirs = models.ResNet18_Weights.IMAGENET1K_V1.transforms(resize_size=224)(grey)
    assert torch.allclose(x, theirs, atol=0.02)  # theirs rounds pixels to whole numbers
    other = prepared("dataset.mean=[0.5]", "dataset.std=[0.5]")
    assert other.data.form.mean == (0.5,)


def test_a_pickle_that_runs_code_is_refused(put: Callable[[object], Path]) -> None:
    put(random_resnet())
    with pytest.raises(UserError, match="is no file of tensors alone"):
        prepared()


def test_name_and_file_are_different_runs(put: Callable[[object], Path]) -> None:
    path = put(random_resnet().state_dict())
    found = {
        signature(composed(*NAMED, f"model.weights={weights}"), "digits", "cpu")
        for weights in ("IMAGENET1K_V1", "DEFAULT", path)
    }
    assert len(found) == 2, "DEFAULT is another name of the same file"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*NAMED[:2], "model.weights=IMAGENET1K_V9"],
         "IMAGENET1K_V9: resnet18 has IMAGENET1K_V1, DEFAULT; did you mean 'IMAGENET1K_V1'"),
        ([NAMED[0], "model.arch=inception_v3", NAMED[2]],
         "inception_v3 changes its images by itself"),
        (["model=mlp", NAMED[2]], "must be a file that ends in .*, or, with model=torchvision"),
    ],
)  # fmt: skip
def test_names_that_do_not_suit(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        signature(composed(*words), "digits", "cpu")


def test_a_run_and_the_evaluation_of_its_record(
    put: Callable[[object], Path], tmp_path: Path
) -> None:
    path = put(random_resnet().state_dict())
    run = identify(composed(*NAMED, *SMALL, f"output_dir={tmp_path / 'out'}"))
    result = execute(run, Screen("none"), in_sweep=False, stop=StopRequest())
    assert result is not None
    assert result.status == "finished"
    path.unlink()  # the record has all that is needed
    trained = read(run.record.directory)
    found = evaluate(trained, trained.config)
    assert found.numbers["error"] == result.test_error
    other = trained.config.dataset.model_copy(update={"size": None, "mean": None, "std": None})
    found = evaluate(trained, trained.config.model_copy(update={"dataset": other}))
    assert found.numbers["error"] == result.test_error, "the form is the network's"
