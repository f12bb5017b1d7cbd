"""How stacks are worked on: one matrix at a time on the CPU, in threads where there are several."""

import threading
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from opt_runner.methods import METHODS, Cayley
from opt_runner.methods.kernels.fused import FusedRotation, Saved

SIZES = [(4, 200, 16), (2, 27, 8), (1, 512, 12), (2, 10, 30)]


pytestmark = pytest.mark.usefixtures("two_threads")


def stacks(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    Rs = [torch.randn(k, d, d, dtype=dtype, requires_grad=True) for k, d, _ in SIZES]
    return Rs, [torch.randn(k, d, n, dtype=dtype) for k, d, n in SIZES]


@pytest.mark.parametrize("name", ["gs", "hr", "ls", "cayley"])
def test_stacks_together_are_each_alone_in_float64(name: str) -> None:
    """Two threads and float32, where batched LU on the CPU returns garbage, against one thread."""
    method = METHODS[name]()
    Rs, Ws = stacks()
    Gs = [torch.randn_like(W) for W in Ws]
    together = method.rotate_all(Rs, Ws)
    torch.autograd.backward(together, Gs)
    torch.set_num_threads(1)
    for R, W, G, V in zip(Rs, Ws, Gs, together, strict=True):
        for i in range(len(R)):
            alone = R[i : i + 1].detach().double().requires_grad_()
            expected = method.rotate(alone, W[i : i + 1].double())
            expected.backward(G[i : i + 1].double())
            torch.testing.assert_close(V[i : i + 1].double(), expected, rtol=0, atol=2e-3)
            error = (R.grad[i] - alone.grad[0]).norm() / alone.grad[0].norm()
            assert error < 1e-2


@pytest.mark.parametrize("name", ["gs", "hr", "ls", "cayley"])
def test_w_has_its_gradient_where_it_trains(name: str) -> None:
    method = METHODS[name]()
    Rs, Ws = stacks(torch.float64)
    for R, W in zip(Rs, Ws, strict=True):
        W.requires_grad_()
        G = torch.randn_like(W)
        method.rotate(R, W).backward(G)
        k, d, _ = R.shape
        Q = method.rotate(R.detach(), torch.eye(d, dtype=R.dtype).expand(k, d, d))
        torch.testing.assert_close(W.grad, Q.mT @ G)
        fixed = R.detach().requires_grad_()
        method.rotate(fixed, W.detach()).backward(G)
        torch.testing.assert_close(R.grad, fixed.grad)


class Failing(FusedRotation):
    seen: ClassVar[set[int]] = set()

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Saved]:
        Failing.seen.add(torch.get_num_threads())
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("in a thread")
        return W, (W,)


def test_an_error_in_a_thread_is_raised_and_the_number_of_threads_is_as_before() -> None:
    with pytest.raises(RuntimeError, match="in a thread"):
        Failing().rotate_all(*stacks())
    assert Failing.seen == {1}
    assert torch.get_num_threads() == 2


def test_a_method_of_a_users_own_may_change_the_map_of_one_of_these() -> None:
    class Scaled(Cayley):
        def rotate(self, R: Tensor, W: Tensor) -> Tensor:
            return -super().rotate(R, W)

    Rs, Ws = stacks()
    for V, plain in zip(Scaled().rotate_all(Rs, Ws), Cayley().rotate_all(Rs, Ws), strict=True):
        torch.testing.assert_close(V, -plain, rtol=0, atol=1e-3)
