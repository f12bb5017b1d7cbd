"""Stacks: layers of one size together."""

from opt_runner import OPT
from opt_runner.networks import PlainCNN


def test_layers_of_one_size_share_a_stack() -> None:
    opt = OPT(PlainCNN(3, (32, 32), 10, convs=3), "cayley")
    sizes = {tuple(s.W().shape[1:]): tuple(s.trained["R"].shape) for s in opt.stacks}
    assert sizes == {(27, 64): (1, 27, 27), (576, 64): (8, 576, 576), (1024, 64): (1, 1024, 1024)}
