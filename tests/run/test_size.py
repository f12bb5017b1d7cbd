"""What a step takes, of the shapes alone."""

import pytest
import torch

from opt_runner.datasets import Images, Samples
from opt_runner.errors import UserError
from opt_runner.run import size
from opt_runner.run.size import check_fits, memory_of_step
from tests.config.test_config import composed

CPU = torch.device("cpu")


def images(side: int) -> Images:
    black = Samples(torch.zeros(4, 3, side, side, dtype=torch.uint8), torch.zeros(4).long())
    return Images(black, black, list("abcde"))


def test_sizes_are_what_the_shapes_say() -> None:
    """MLP of 3 x 4 x 4 = 48 inputs, one hidden layer of 8, batches of 16."""
    tiny = ["model=mlp", "model.widths=[8]", "batch_size=16"]
    plain = memory_of_step(composed("method=standard", *tiny), images(4), CPU)
    free = memory_of_step(composed("method=or", *tiny), images(4), CPU)
    assert plain is not None
    assert free is not None
    R = 4 * 48 * 48
    # W has no gradient and no momentum; R has, and R, E of the penalty and V are kept.
    assert free - plain == pytest.approx(4 * R, rel=0.3)


@pytest.mark.parametrize("method", ["gs", "hr", "ls", "cayley", "ogd", "sopt"])
def test_every_method_has_a_size(method: str) -> None:
    found = memory_of_step(
        composed(f"method={method}", "model=cnn6", "batch_size=8"), images(8), CPU
    )
    plain = memory_of_step(
        composed("method=standard", "model=cnn6", "batch_size=8"), images(8), CPU
    )
    assert found is not None
    assert plain is not None
    assert found > plain


@pytest.mark.parametrize(("method", "more"), [("gs", True), ("cayley", True), ("ogd", False)])
def test_decompositions_on_a_gpu_need_more(method: str, more: bool) -> None:
    """They are in float64."""
    config = composed(f"method={method}", "model=cnn6", "batch_size=8")
    here, there = (memory_of_step(config, images(8), torch.device(d)) for d in ("cpu", "cuda"))
    assert here is not None
    assert there is not None
    assert (there > 1.2 * here) == more


def test_what_does_not_fit_says_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("model=cnn6", "batch_size=4")
    check_fits(config, images(64), CPU)
    monkeypatch.setattr(size, "free_memory", lambda _: 2**28)
    with pytest.raises(UserError) as caught:
        check_fits(composed("model=cnn6", "batch_size=4"), images(128), CPU)
    said = str(caught.value)
    assert "a step of cayley on cnn6 takes 4.1 GiB and cpu has 0.2 GiB free: of 7 layers fc" in said
    assert "d = 16,384 and so 268,435,456 entries of R; what fits: layers.max_d=576 takes" in said
    monkeypatch.setattr(size, "free_memory", lambda _: 2**20)
    with pytest.raises(UserError, match="a smaller batch_size, or name fewer layers"):
        check_fits(config, images(64), CPU)


def test_a_network_that_needs_data_has_no_size() -> None:
    target = "model._target_=tests.run.test_size.NeedsData"
    own = [f"~model.{key}" for key in ("widths", "bn_eps")]
    assert memory_of_step(composed("model=mlp", target, *own), images(4), CPU) is None


class NeedsData(torch.nn.Module):
    def __init__(self, num_classes: int, bn_momentum: float) -> None:
        super().__init__()
        self.features = torch.nn.Linear(48, 8)
        self.classifier = torch.nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x.flatten(1) / x.max().item()))
