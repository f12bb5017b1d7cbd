"""Which layers end in an output of a network: its classifiers, heads and decoders.

They stay plain unless they are named. An example finds them from the graph of one forward pass;
without one their names tell, and the last layer in module order is one in any case.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from opt_runner.recompute import tensors_in

if TYPE_CHECKING:
    from opt_runner.candidates import Candidate

# Words in the names of heads. The first hold wherever the module stands, as an auxiliary head
# stands in the middle; the others only behind all layers that are in no head.
_ANYWHERE = {"classifier", "classifiers", "logit", "logits", "aux"}
_AT_THE_END = _ANYWHERE | {
    "cls", "head", "heads", "pred", "prediction", "predictions", "predictor", "predictors",
    "projection", "score", "scores", "answer",
}  # fmt: skip
_AT_THE_TOP = {"output", "outputs"}  # inside, they name parts of blocks
# Of modules that only feed a head, such as cls_attn_blocks and conv_head.
_NO_HEAD = {"attn", "attention", "block", "blocks", "conv", "embed", "norm"}
# Of outputs that are no aim of the training.
_INNER = ("hidden", "attention", "past", "state", "cache", "embed", "router")


def by_name(network: nn.Module, layers: "Sequence[Candidate]") -> set[str]:
    """Return the parameters of the heads among these layers, which are in module order."""
    found = {one.layer.parameter for one in layers[-1:]}
    at_the_end = True
    for i in reversed(range(len(layers))):
        one = layers[i]
        scopes = _scopes(network, one.module, _AT_THE_END if at_the_end else _ANYWHERE)
        if any(_is_last(layers, i, scope) for scope in scopes):
            found.add(one.layer.parameter)
        at_the_end &= bool(scopes) or one.layer.parameter in found
    return found


def _scopes(network: nn.Module, name: str, words: set[str]) -> list[str]:
    """Return the names of the heads that hold the module: each item of a list is its own."""
    parts = name.split(".")
    found: list[str] = []
    for i, part in enumerate(parts, 1):
        # As AuxLogits, lm_head, aux1 or cls_score.
        here = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)}
        if here.isdisjoint(words | _AT_THE_TOP if i == 1 else words) or here & _NO_HEAD:
            continue
        scope = ".".join(parts[:i])
        several = isinstance(network.get_submodule(scope), nn.ModuleList | nn.ModuleDict)
        found.append(".".join(parts[: i + 1]) if several else scope)
    return found


def _is_last(layers: "Sequence[Candidate]", i: int, scope: str) -> bool:
    parameter = layers[i].layer.parameter
    return not any(
        f"{other.module}.".startswith(f"{scope}.") and other.layer.parameter != parameter
        for other in layers[i + 1 :]
    )


def by_graph(network: nn.Module, layers: "Sequence[Candidate]", example: Any) -> set[str] | None:
    """Return the parameters of the layers behind which no other one follows in a forward pass.

    example: a tensor, a tuple of arguments, or a dict of keyword arguments.
    None where the graph does not tell: most layers of a residual network without a head add to its
    output, and would all be heads.
    """
    last: dict[object, set[str]] = {}  # node of the graph: the parameters behind it
    modules: dict[str, set[str]] = {}
    for one in layers:
        modules.setdefault(one.module, set()).add(one.layer.parameter)

    def hook(parameters: set[str]) -> Any:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            for tensor in tensors_in(output):
                if tensor.grad_fn is not None:
                    last.setdefault(tensor.grad_fn, set()).update(parameters)

        return note

    handles = [
        network.get_submodule(name).register_forward_hook(hook(parameters))
        for name, parameters in modules.items()
    ]
    training = {module: module.training for module in network.modules()}
    args = (
        example if isinstance(example, tuple) else () if isinstance(example, dict) else (example,)
    )
    devices = list({parameter.device for parameter in network.parameters() if parameter.is_cuda})
    try:
        network.eval()
        with torch.enable_grad(), torch.random.fork_rng(devices):
            output = network(*args, **(example if isinstance(example, dict) else {}))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    found: set[str] = set()
    seen: set[object] = set()
    waiting: list[Any] = [tensor.grad_fn for tensor in _aims(output)]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in last:
            found |= last[node]
        else:
            waiting += [following for following, _ in node.next_functions]
    return found if len(found) <= len(layers) / 2 else None


def _aims(output: Any) -> list[Tensor]:
    """Return the tensors of an output that are aims of the training, also of outputs inside it."""
    if not isinstance(output, Mapping):
        return list(tensors_in(output))
    return [
        tensor
        for key, value in output.items()
        if not any(word in str(key) for word in _INNER)
        for tensor in _aims(value)
    ]
