"""The matrices of a network that no method covers, named in messages."""

from collections import Counter
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import nn

from opt_runner.candidates import Candidate
from opt_runner.errors import UserError, listed
from opt_runner.module_types import EMBEDDINGS, dotted


def types_of_matrices(network: nn.Module, without: Collection[str]) -> str:
    """Return the types that hold the other matrices, the largest first, as "Conv1D (12,345)"."""
    sizes: Counter[str] = Counter()
    for name, parameter in _matrices(network).items():
        if name not in without:
            sizes[type(_holder(network, name)).__name__] += parameter.numel()
    return listed([f"{kind} ({size:,})" for kind, size in sizes.most_common()])


def little_covered(
    network: nn.Module, every: Sequence[Candidate], covered: set[str], plain: set[str]
) -> str | None:
    """Return a warning if less than half of the network's matrix parameters are covered.

    Embeddings, layers that end in an output, frozen layers and those in `plain` do not count.
    """
    plain = plain | {one.layer.parameter for one in every if one.layer.output or one.frozen}
    # A shared matrix, such as a head that is an embedding, is known by its first name here.
    first = {id(parameter): name for name, parameter in _matrices(network).items()}
    others = dict(network.named_parameters(remove_duplicate=False))
    covered, plain = (
        {first.get(id(others.get(name)), name) for name in names} for names in (covered, plain)
    )
    counted = {
        name: parameter.numel()
        for name, parameter in _matrices(network).items()
        if name in covered
        or (
            name not in plain
            and parameter.requires_grad
            and not isinstance(_holder(network, name), EMBEDDINGS)
        )
    }
    share = sum(counted[name] for name in covered) / max(sum(counted.values()), 1)
    if share >= 0.5:
        return None
    apart = covered | (_matrices(network).keys() - counted.keys())
    return (
        f"OPT covers {share:.0%} of the matrix parameters of {type(network).__name__}; the rest "
        f"are in {types_of_matrices(network, apart)}: name them in `include` or `types`, or "
        "register their types (opt_runner.register_layer)"
    )


def kept_elsewhere(network: nn.Module, covered: Collection[str]) -> str | None:
    """Return a warning of weights that a module has in a list as well, where V cannot be."""
    names = {id(network.get_parameter(name)): name for name in covered}
    found: list[str] = []
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or type(value) not in (list, tuple, dict):
                continue
            values = value.values() if isinstance(value, dict) else value
            place = f"{name}.{attribute}".lstrip(".")
            found += [f"{names[id(one)]} in {place}" for one in values if id(one) in names]
    if not found:
        return None
    return (
        f"{listed(found)}: the network has these weights outside of its parameters as well, where "
        "OPT cannot put V. What computes with them there computes with W, and R gets no gradient"
    )


def check_unregistered(network: nn.Module, pattern: str) -> None:
    """Raise UserError if the pattern names a matrix of a type that OPT does not know."""
    for name in _matrices(network):
        module, _, attribute = name.rpartition(".")
        if fnmatchcase(name, pattern) or fnmatchcase(module, pattern):
            kind = dotted(type(_holder(network, name)))
            raise UserError(
                f"{name} is a matrix of {kind}, which OPT does not know: say which axis has the "
                f"neurons, opt_runner.register_layer({kind!r}, {{{attribute!r}: 'n d'}}) for "
                "(outputs, inputs), 'd n' for (inputs, outputs)"
            )


def _matrices(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the matrices by name; a shared one has its first name."""
    return {name: p for name, p in network.named_parameters() if p.ndim >= 2}


def _holder(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(name.rpartition(".")[0])
