"""What is trained in the benchmark: networks on random images, as opt-run would train them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from opt_runner.config import compose
from opt_runner.config.schema import Config
from opt_runner.datasets import Images
from opt_runner.methods import PAPER
from opt_runner.run.set_up import Setup, set_up
from opt_runner.run.step import TrainingStep

# The methods of which whole steps are timed.
TIMED = (*PAPER, "frame")

# The paper's recipe and budget: the schedule does not end within a benchmark.
_RECIPE = ("dataset=cifar10", "budget.steps=75000")
CNN6_NARROW = ("model=cnn6", "model.widths=[32,32,32]", "model.fc_width=32")
_AS_DIGITS = ("augment.pad=1", "augment.flip=false")
_CAPTURE_WARM_UP = 3


@dataclass(frozen=True)
class Workload:
    """A network, as arguments of opt-run, and so many images (channels, side, side)."""

    network: tuple[str, ...]
    channels: int
    side: int
    count: int
    classes: int = 10

    def images(self, count: int | None = None) -> Images:
        """Random ones, the same at every call, on the CPU. The first two serve as test images."""
        generator = torch.Generator().manual_seed(0)
        shape = (count or self.count, self.channels, self.side, self.side)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(self.classes, shape[:1], generator=generator)
        names = [str(label) for label in range(self.classes)]
        return Images(images, labels, images[:2], labels[:2], names)

    def images_for(self, *arguments: str) -> Images:
        """A batch of a training with these arguments of opt-run at least."""
        return self.images(max(self.count, self.config(*arguments).batch_size))

    def config(self, *arguments: str) -> Config:
        """arguments: of opt-run, the method and the hardware among them."""
        return compose.from_arguments(*_RECIPE, *self.network, *arguments)


WORKLOADS = {
    "cnn9": Workload(("model=cnn9",), 3, 32, 50_000),
    "cnn6": Workload(("model=cnn6",), 3, 32, 50_000),
    "cnn6_narrow": Workload((*CNN6_NARROW, *_AS_DIGITS), 1, 8, 1_442),
    "mlp": Workload(("model=mlp", *_AS_DIGITS), 1, 8, 1_442),
    **{
        name: Workload((*network, "batch_size=8", "optimizer.lr=0.001"), 3, 32, 64)
        for name, network in {
            "resnet18": ("model=resnet18",),
            "wide_resnet": ("model=wide_resnet",),
            "convnext_tiny": ("model=torchvision", "model.arch=convnext_tiny"),
            "vit_tiny": ("model=vit_tiny",),
        }.items()
    },
    # For `--quick`.
    "cnn9_tiny": Workload(
        ("model=cnn9", "model.widths=[8,8,8]", "model.fc_width=8", "batch_size=16"), 3, 16, 64
    ),
}


def eager(workload: Workload, images: Images, *arguments: str) -> TrainingStep:
    """The step as it is. arguments: of opt-run, the method and the hardware among them."""
    return TrainingStep(set_up(workload.config(*arguments), images))


def compiled(workload: Workload, images: Images, *arguments: str) -> TrainingStep:
    """Forward and backward by `torch.compile`."""
    # All OPT objects share their code and each is compiled anew: after 8 of them PyTorch would
    # fall back to eager without a word.
    torch._dynamo.config.cache_size_limit = 64
    return eager(workload, images, *arguments, "hardware.compile=true")


def graphed(workload: Workload, images: Images, *arguments: str) -> TrainingStep:
    """The update replayed from a CUDA graph, once it has been seen to train as the eager one does.

    Raises RuntimeError where it cannot be captured, or trains differently.
    """
    # The learning rate is captured as it is: it must not change.
    config = workload.config(*arguments, "schedule.warmup=0")
    step, twin = _GraphedStep(set_up(config, images)), TrainingStep(set_up(config, images))
    for _ in range(_CAPTURE_WARM_UP):
        twin.update(*twin.setup.batches.batch(0))
    for _ in range(3):
        step()
        twin()
    # A capture keeps the addresses of tensors: a method that puts a new tensor in the place of an
    # old one would be timed while every replay starts from the old one.
    trained = zip(step.setup.opt.parameters(), twin.setup.opt.parameters(), strict=True)
    if not all(torch.allclose(ours, eagers, rtol=1e-3, atol=1e-4) for ours, eagers in trained):
        raise RuntimeError("captured, but a replay does not train as the eager step does")
    return step


class _GraphedStep(TrainingStep):
    """The batch is taken outside the graph and copied into its inputs x and y.

    What runs in Python alone is not replayed: sopt turns no rounds, and `diverged_at` knows the
    last step only.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        x, y = setup.batches.batch(0)
        self.x, self.y = x.clone(), y.clone()
        # The optimizer makes its state and the libraries their workspaces before the capture, and
        # on another stream, as PyTorch's notes on CUDA graphs ask for.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_CAPTURE_WARM_UP):
                super().update(self.x, self.y)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            super().update(self.x, self.y)

    def update(self, x: Tensor, y: Tensor) -> None:
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()


FORMS = {"eager": eager, "torch.compile": compiled, "CUDA graph": graphed}
