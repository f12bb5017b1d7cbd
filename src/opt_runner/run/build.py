"""The network of a run, and the methods around it."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from opt_runner.choice import Rule
from opt_runner.config import components
from opt_runner.config.choices import DatasetChoice, ModelChoice
from opt_runner.config.compose import suiting
from opt_runner.config.schema import Config, Covered
from opt_runner.datasets import Dataset, Form
from opt_runner.datasets.data import hash_of_tensors
from opt_runner.errors import UserError
from opt_runner.methods import Method
from opt_runner.methods.weights import Weights
from opt_runner.networks.pretrained import load_weights, read_weights
from opt_runner.networks.published import Published, without_head
from opt_runner.opt import OPT
from opt_runner.optimizers import SGD
from opt_runner.records import weights
from opt_runner.run.schedule import WITHOUT_MILESTONES

# The reference's momentum of BatchNorm, and its budget.
_BN_MOMENTUM, _BN_STEPS, _BN_MOST = 0.001, 75_000, 0.1


def network_of(config: Config, gives: dict[str, Any], steps: int) -> nn.Module:
    """Return the network for data that give this, and a budget of `steps`, as it starts.

    Raises UserError if the network needs more, and names the networks that do not.
    """
    supplied = gives | {"bn_momentum": min(_BN_MOST, _BN_MOMENTUM * _BN_STEPS / steps)}
    if lacking := components.unfilled(config.model, "model") - supplied.keys():
        suit = ", ".join(suiting(frozenset(supplied)))
        raise UserError(
            f"model={config.model.name} needs {', '.join(sorted(lacking))}, which "
            f"dataset={config.dataset.name} does not give; it gives {', '.join(gives)}, and suits "
            f"{suit or 'none of the models here'}"
        )
    return components.build(config.model, "model", nn.Module, **supplied)


def dataset_of(chosen: DatasetChoice) -> Dataset:
    """Return the dataset that the config names."""
    return components.build(chosen, "dataset", Dataset, **chosen.for_class)


def form_of(dataset: DatasetChoice, model: ModelChoice) -> Form:
    """Return the form of images for this model: by default that of its weights with a name."""
    form = Form(dataset.size, dataset.channels, dataset.mean, dataset.std)
    if (published := published_of(model)) is None:
        return form
    return Form(
        form.size,
        form.channels or len(published.mean),
        form.mean or published.mean,
        form.std or published.std,
    )


def published_of(model: ModelChoice) -> Published | None:
    """Return the weights with a name that the model starts from, if it does."""
    return Published.of(model.options["arch"], model.published) if model.published else None


def load_start(network: nn.Module, config: Config, gives: dict[str, Any], steps: int) -> list[str]:
    """Load the weights that the model starts from, and return remarks on them.

    Buffers that hold the dataset's tensors, such as a graph, stay as they are.
    Raises UserError if the weights cannot be read or do not fit.
    """
    model = config.model
    if (published := published_of(model)) is not None:
        given, head = without_head(
            published.state_dict(), network, published.classes, gives["num_classes"]
        )
        given |= {name: network.state_dict()[name] for name in head}
        load_weights(network, given, published.name, model.weights_except)
        remarks = []
        if head:
            remarks.append(
                f"model.weights={published.name} has {published.classes:,} classes: "
                f"{', '.join(head)} start anew"
            )
        if min(gives["image_size"]) != published.size:
            height, width = gives["image_size"]
            remarks.append(
                f"model.weights={published.name} was trained on images of {published.size} x "
                f"{published.size}, these are {height} x {width}: dataset.size={published.size} "
                "resizes them"
            )
        return remarks
    if model.weights:
        weights.check(model.weights)
        left_out = [*model.weights_except, *_of_the_data(config, gives, steps)]
        load_weights(network, read_weights(model.weights), model.weights, left_out)
    return []


def _of_the_data(config: Config, gives: dict[str, Any], steps: int) -> list[str]:
    """Return the names of the network's buffers that hold tensors of the dataset.

    They differ between two networks, one of which is built for zeros.
    """
    if not hash_of_tensors(gives):
        return []
    buffers = []
    with torch.random.fork_rng(devices=[]):
        for one in (gives, tree_map_only(Tensor, torch.zeros_like, gives)):
            torch.manual_seed(0)
            buffers.append(dict(network_of(config, one, steps).named_buffers()))
    real, others = buffers
    return [name for name in real if name not in others or not real[name].equal(others[name])]


def dtype_of(config: Config) -> torch.dtype:
    """Return the type of a run's weights: float32 also for a network in bfloat16."""
    return torch.float64 if config.hardware.precision == "float64" else torch.float32


def opt_of(config: Config, network: nn.Module, steps: int) -> OPT:
    """Return OPT around the network, for a budget of `steps`."""
    kept: Weights = "pretrained" if config.model.weights else "given"
    return OPT(
        network,
        _rules(config, steps),
        per_group=config.layers.per_group,
        weights=config.layers.weights or kept,
    )


def optimizer_of(config: Config, opt: OPT) -> torch.optim.Optimizer:
    """Return the optimizer that the config names, over all that trains."""
    chosen = config.optimizer
    momentum: dict[str, Any] = {
        k: v for k, v in chosen.options.items() if k in ("momentum", "nesterov")
    }
    options: dict[str, Any] = {"lr": chosen.lr, "weight_decay": chosen.weight_decay}
    called = components.target(chosen, "optimizer")
    accepted = inspect.signature(called).parameters
    by_any_name = any(one.kind is one.VAR_KEYWORD for one in accepted.values())
    component: components.Component = chosen
    if by_any_name:
        named = {"name": chosen.name, "_target_": chosen.target, **chosen.options, **options}
        component = components.Component.model_validate(named)
    elif chosen.weight_decay and "weight_decay" not in accepted:
        raise UserError(
            f"optimizer: {called.__name__} takes no weight_decay: set optimizer.weight_decay=0"
        )
    if called is SGD:
        return opt.optimizer(**options, **momentum, rotation_lr=chosen.rotation_lr)

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        kind = torch.optim.Optimizer
        try:
            return components.build(component, "optimizer", kind, params=groups, **options)
        except ValueError as error:  # of a class of PyTorch, which checks its options itself
            raise UserError(f"optimizer: {error}") from error

    return opt.optimizer(**options, rotation_lr=chosen.rotation_lr, make=make)


def without_effect(config: Config) -> list[str]:
    """Return remarks on keys of the optimizer and the schedule that change nothing here."""
    method = components.target(config.method, "method")
    remarks = []
    own = getattr(method, "optimizer_class", torch.optim.SGD) is not torch.optim.SGD
    if own and config.optimizer.options.get("nesterov"):
        remarks.append(
            f"optimizer.nesterov=true has no effect on what {config.method.name} moves by its own "
            "optimizer, only on the other parameters"
        )
    chosen = config.method.options.get("rotation_factor")
    schedule = components.target(config.schedule, "schedule")
    if chosen != getattr(method, "rotation_factor", chosen) and schedule in WITHOUT_MILESTONES:
        remarks.append(
            f"method.rotation_factor={chosen} has no effect: schedule={config.schedule.name} has "
            "no milestones"
        )
    return remarks


def _rules(config: Config, steps: int) -> list[Rule]:
    first = components.build(config.method, "method", Method)
    rules = [_rule(first.scaled_to(steps), config.layers)]
    for position, other in enumerate(config.layers.rest):
        where = f"layers.rest.{position}"
        component = components.named_method(other.method, other.options, where)
        method = components.build(component, where, Method)
        rules.append(_rule(method.scaled_to(steps), other))
    return rules


def _rule(method: Method, covered: Covered) -> Rule:
    return Rule(method, **{key: getattr(covered, key) for key in Covered.model_fields})
