"""The forms in which a training step can run: eager, compiled, captured in a CUDA graph."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from opt_runner.bench.cells import compose
from opt_runner.bench.training_step import TrainingStep
from opt_runner.bench.workloads import Workload
from opt_runner.config import Config
from opt_runner.datasets import Batches
from opt_runner.hardware import Hardware

Store = tuple[Tensor, Tensor]
Form = Callable[[Workload, str, Store, Hardware], TrainingStep]

# The paper's budget: its schedule begins with a constant learning rate, and lasts.
_BUDGET = ("dataset=cifar10", "budget.steps=75000")
_CAPTURE_WARM_UP = 3


def eager(workload: Workload, method: str, store: Store, hardware: Hardware) -> TrainingStep:
    """The step as it is."""
    cell = compose(f"method={method}", *_BUDGET)
    return TrainingStep(workload.build(), cell, workload.batches(store, hardware), hardware)


def compiled(workload: Workload, method: str, store: Store, hardware: Hardware) -> TrainingStep:
    """Forward and backward by `torch.compile`, as `hardware.compile=true` does."""
    # All OPT objects share their code and each is compiled anew: after 8 of them PyTorch would
    # fall back to eager without a word.
    torch._dynamo.config.cache_size_limit = 64
    return eager(workload, method, store, dataclasses.replace(hardware, compile=True))


def graphed(workload: Workload, method: str, store: Store, hardware: Hardware) -> TrainingStep:
    """The update replayed from a CUDA graph, once it has been seen to train as the eager one does.

    Raises RuntimeError where it cannot be captured, or trains differently.
    """
    cell = compose(f"method={method}", *_BUDGET)
    batches = workload.batches(store, hardware)
    step = _GraphedStep(workload.build(), cell, batches, hardware)
    twin = eager(workload, method, store, hardware)
    for _ in range(_CAPTURE_WARM_UP):
        twin.update(*twin.batches.batch(0))
    for _ in range(3):
        step()
        twin()
    # A capture keeps the addresses of tensors: a method that puts a new tensor in the place of an
    # old one would be timed while every replay starts from the old one.
    for replayed, trained in zip(step.opt.parameters(), twin.opt.parameters(), strict=True):
        if not torch.allclose(replayed, trained, rtol=1e-3, atol=1e-4):
            raise RuntimeError("captured, but a replay does not train as the eager step does")
    return step


class _GraphedStep(TrainingStep):
    """The batch is taken outside the graph and copied into its inputs x and y.

    The learning rate is captured as it is, and sopt turns no rounds.
    """

    def __init__(
        self, network: nn.Module, cell: Config, batches: Batches, hardware: Hardware
    ) -> None:
        super().__init__(network, cell, batches, hardware)
        x, y = batches.batch(0)
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


FORMS: dict[str, Form] = {"eager": eager, "torch.compile": compiled, "CUDA graph": graphed}
