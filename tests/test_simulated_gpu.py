"""The simulated GPU keeps the rules that tests count on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.simulated_gpu import SimulatedGpu, Waits, available

pytestmark = pytest.mark.skipif(not available(), reason="this PyTorch cannot simulate a GPU")


def test_it_computes_as_the_cpu_and_stays_on_its_device() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    expected = layer(x).relu().sum()
    expected.backward()
    with SimulatedGpu() as gpu:
        there = nn.Linear(4, 3).to(gpu.device)
        there.load_state_dict(layer.state_dict())
        loss = there(x.to(gpu.device)).relu().sum()
        loss.backward()
        assert {loss.device, there.weight.grad.device} == {gpu.device}
        assert loss.item() == expected.item()
        assert torch.equal(there.weight.grad.cpu(), layer.weight.grad)


@pytest.mark.parametrize(
    "operation",
    [lambda here, there: here + there, lambda here, there: torch.cat([there, here])],
)
def test_tensors_of_two_devices_do_not_meet(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    here = torch.ones(2)
    with SimulatedGpu() as gpu, pytest.raises(RuntimeError, match="same device"):
        operation(here, here.to(gpu.device))


@pytest.mark.parametrize(
    "operation",
    [
        Tensor.item,
        bool,
        Tensor.cpu,
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0])],
        lambda x: torch.linalg.inv(x.reshape(1, 1)),
        lambda x: x + torch.ones(1).to(x.device),
    ],
)
def test_what_waits_is_found(operation: Callable[[Tensor], object]) -> None:
    with SimulatedGpu() as gpu:
        x = torch.ones(1, device=gpu.device)
        operation(x)
        with gpu.no_waits(), pytest.raises(Waits):
            operation(x)


def test_a_copy_that_does_not_block_does_not_wait() -> None:
    with SimulatedGpu() as gpu, gpu.no_waits():
        torch.ones(3).to(gpu.device, non_blocking=True).add(1)
