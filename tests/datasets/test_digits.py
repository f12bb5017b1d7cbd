"""The embedded digits: complete, scaled, split without a random draw."""

import subprocess
import sys

import pytest
import torch

from opt_runner.datasets import Digits


def test_holds_all_images() -> None:
    digits = Digits().load()
    assert digits.train.inputs.shape == (1442, 1, 8, 8)
    assert digits.test.inputs.shape == (355, 1, 8, 8)
    assert digits.classes == list("0123456789")
    assert digits.train.inputs.max() == digits.test.inputs.max() == 255


def test_is_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    original = datasets.load_digits()
    zeros = original.images[original.target == 0] * (255 / 16)
    digits = Digits().load()
    # Of the zeros, the first four train and the fifth tests.
    ours = digits.train.inputs[digits.train.targets == 0, 0]
    torch.testing.assert_close(ours[:4].double(), torch.tensor(zeros[:4]).round())
    ours = digits.test.inputs[digits.test.targets == 0, 0]
    torch.testing.assert_close(ours[0].double(), torch.tensor(zeros[4]).round())


def test_classes_keep_their_balance() -> None:
    digits = Digits().load()
    train, test = digits.train.targets.bincount(), digits.test.targets.bincount()
    assert torch.equal(test, (train + test) // 5)


def test_loads_the_same_each_time() -> None:
    first, second = Digits().load(), Digits().load()
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(first.test.targets, second.test.targets)
    assert Digits().fingerprint() == Digits().fingerprint() == "digits"
    Digits().check()


def test_package_imports_neither_sklearn_nor_torchvision() -> None:
    code = (
        "import sys; from opt_runner.datasets import Digits; Digits().load(); "
        "print({'sklearn', 'torchvision'} & sys.modules.keys())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
