"""What our rotations are compared with computes the same, or a rotation at least."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from opt_runner.bench import libraries, naive
from opt_runner.bench.one_layer import Layer, naive_ogd, naive_or, ours
from opt_runner.bench.rotations import ALTERNATIVES, OURS
from opt_runner.bench.timing import Task
from opt_runner.geometry import orthogonality_error
from opt_runner.methods import METHODS
from opt_runner.methods.ogd import OrthogonalGradientDescent

FORMS = {
    "gs": [naive.gram_schmidt_loop, naive.gram_schmidt_qr],
    "hr": [naive.householder_loop],
    "ls": [naive.lowdin_svd],
    "cayley": [naive.cayley_inverse],
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "form"), [(name, form) for name, forms in FORMS.items() for form in forms]
)
@pytest.mark.parametrize(("d", "n"), [(2, 3), (5, 2), (24, 7)])
def test_naive_forms_equal_ours(
    name: str, form: Callable[[Tensor], Tensor], d: int, n: int
) -> None:
    R, W, G = draw(d, d), draw(d, n, seed=1), draw(d, n, seed=2)
    theirs, stack = R.clone().requires_grad_(), R.clone().unsqueeze(0).requires_grad_()
    expected = form(theirs) @ W
    torch.autograd.backward(expected, G)
    V = METHODS[name]().rotate(stack, W.unsqueeze(0))
    torch.autograd.backward(V, G.unsqueeze(0))
    torch.testing.assert_close(V[0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(stack.grad[0], theirs.grad, rtol=1e-7, atol=1e-7)


def test_naive_penalty_equals_ours() -> None:
    R = draw(9, 9)
    torch.testing.assert_close(METHODS["or"]().penalty(R.unsqueeze(0)), naive.penalty(R))


def test_naive_retraction_equals_the_references() -> None:
    method = OrthogonalGradientDescent(form="reference")
    R, W = torch.eye(9, dtype=torch.float64), draw(9, 4)
    M = torch.zeros_like(R)
    stack = torch.nn.Parameter(R.clone().unsqueeze(0))
    groups = [{"params": [stack], **method.rotation_group(lr=0.1, weight_decay=0.0)}]
    optimizer = method.optimizer_class(groups, lr=0.1, momentum=0.9)
    for step in range(3):
        G = draw(9, 4, seed=step)
        R, M = naive.retraction(R, M, G @ W.T, lr=method.rotation_lr)
        torch.autograd.backward(method.rotate(stack, W.unsqueeze(0)), G.unsqueeze(0))
        optimizer.step()
    torch.testing.assert_close(stack[0].detach(), R)


@pytest.mark.parametrize("orthogonal_map", ["cayley", "matrix_exp", "householder"])
def test_torch_gives_rotations(orthogonal_map: str) -> None:
    layer = libraries.torch_layer(draw(12, 12).float(), orthogonal_map)
    assert orthogonality_error(layer.weight) < 1e-5


@pytest.mark.parametrize("triv", ["cayley", "expm"])
def test_geotorch_gives_rotations(triv: str) -> None:
    pytest.importorskip("geotorch")
    R = draw(12, 12).float()
    layer = libraries.geotorch_layer(R, triv)
    assert orthogonality_error(layer.weight) < 1e-5
    assert torch.equal(layer.parametrizations.weight.original, R)


@pytest.mark.parametrize("name", OURS)
def test_our_tasks_move_r_and_leave_a_gradient_or_a_step(name: str, one_thread: None) -> None:
    repeat(ours(OURS[name], Layer.of(16, 4, torch.device("cpu"))))


@pytest.mark.parametrize("build", [naive_ogd, naive_or, *(a.build for a in ALTERNATIVES)])
def test_tasks_of_alternatives_run_again_and_again(
    build: Callable[[Layer], Task], one_thread: None
) -> None:
    repeat(build(Layer.of(16, 4, torch.device("cpu"))))


def repeat(task: Task) -> None:
    for _ in range(3):
        task.prepare()
        task.run()
