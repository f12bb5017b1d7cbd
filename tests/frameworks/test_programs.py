"""What programs do to a network, an OPT and its optimizer: it works, or ends in one clear line."""

import copy
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.checkpoint import checkpoint

from opt_runner import OPT, Rule, merge
from opt_runner.errors import UserError
from opt_runner.methods import METHODS
from opt_runner.methods.standard import Standard
from opt_runner.optimizers import SOAP, Muon

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
OWN_OPTIMIZER = [name for name in METHODS if METHODS[name].optimizer_class is not torch.optim.SGD]
every_method = pytest.mark.parametrize("method", METHODS)


def mlp(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = sizes or (6, 20, 8, 3)
    layers = [nn.Linear(*two) for two in pairwise(sizes)]
    return nn.Sequential(*[module for layer in layers for module in (layer, nn.Tanh())][:-1])


class Named(nn.Module):
    """A network with parts under two names, as lists of layers make them, and methods."""

    def __init__(self, twice: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        if twice:
            self.hidden = nn.ModuleList([self.first, self.second])
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = torch.tanh(layer(x))
        return self.scale * self.head(x)

    def load(self, other: nn.Module) -> None:
        self.second.load_state_dict(other.state_dict())


def steps(opt: OPT, optimizer: torch.optim.Optimizer, count: int = 3) -> list[Tensor]:
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = opt(X).square().sum() + opt.penalty()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


@every_method
def test_a_module_with_two_names_trains_as_with_one(method: str) -> None:
    of: dict[bool, list[Tensor]] = {}
    for twice in (False, True):
        network = Named(twice)
        torch.manual_seed(1)
        opt = OPT(network, method)
        of[twice] = steps(opt, opt.optimizer(lr=0.01))
        assert all(isinstance(p, nn.Parameter) for p in network.second._parameters.values())
        with torch.no_grad():
            of[twice] += [opt(X), opt(X), merge(opt)(X)]
    for once, twice_ in zip(of[False], of[True], strict=True):
        torch.testing.assert_close(twice_, once, rtol=0, atol=0)


def test_a_shared_layer_is_asked_for_by_each_of_its_names() -> None:
    for pattern in ("second", "hidden.1", "hidden.*"):
        (stack,) = OPT(Named(), "cayley", include=[pattern], exclude=["first"]).stacks
        assert stack.names == ["second"]
    with pytest.raises(UserError, match="covers no layer"):
        OPT(Named(), "cayley", include=["second"], exclude=["hidden.1"])
    tied = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False))
    tied[2].weight = tied[0].weight
    for name in ("0", "2"):
        assert OPT(tied, "cayley", include=[name]).stacks[0].names == ["2"]


def test_attributes_of_the_network_are_set_there() -> None:
    opt = OPT(Named())
    before = opt(X)
    opt.scale = 2.0
    assert opt.network.scale == opt.scale == 2
    torch.testing.assert_close(opt(X), 2 * before)
    with pytest.raises(AttributeError, match="head is a part of the network: set it before OPT"):
        opt.head = nn.Linear(16, 10)
    opt.mine = 3  # the network has none of this name
    assert not hasattr(opt.network, "mine")
    other = copy.deepcopy(opt)
    other.scale = 5.0
    assert opt.scale == 2


def test_a_method_of_the_network_that_writes_to_v_is_refused() -> None:
    opt = OPT(Named())
    with pytest.raises(UserError, match=r"load writes to the weights of second\.weight"):
        opt.load(nn.Linear(16, 16))
    with (
        pytest.raises(UserError, match=r"the code inside of opt\.effective"),
        opt.effective() as network,
        torch.no_grad(),
    ):
        network.second.weight.zero_()


@every_method
def test_weights_that_are_loaded_late_are_used_or_refused(method: str) -> None:
    network, other = mlp(), mlp(6, 20, 8, 3)
    for module in other:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    opt = OPT(network, method, include=["2"])
    optimizer = opt.optimizer(lr=0.01)
    before = opt(X).detach()
    steps(opt, optimizer)
    network.load_state_dict(other.state_dict())
    if method in ("orthogonal_init", "delta_orthogonal") or not opt.method.copies(
        torch.ones(20, 8)
    ):
        assert (opt(X) - before).norm() > 1
        return
    with pytest.raises(UserError, match="the weights of 2 were written to after OPT took the net"):
        opt(X)


@every_method
def test_a_state_of_opt_and_another_type_are_no_late_weights(method: str) -> None:
    opt, other = OPT(mlp(), method), OPT(mlp(), method)
    steps(other, other.optimizer(lr=0.01))
    opt(X)
    for assign in (False, True):
        opt.load_state_dict(other.state_dict(), assign=assign)
        torch.testing.assert_close(opt(X), other(X))
    opt.network.to(torch.bfloat16)
    opt(X.bfloat16())


def test_the_state_of_other_layers_is_refused() -> None:
    opt, other = OPT(mlp(6, 9, 9, 9, 3), include=["2"]), OPT(mlp(6, 9, 9, 9, 3), include=["4"])
    with pytest.raises(UserError, match="the state is of other layers than 4"):
        other.load_state_dict(opt.state_dict())
    state = opt.state_dict()
    state["_extra_state"] = torch.tensor([1, 0])
    with pytest.raises(UserError, match="the state is of an older opt-runner"):
        opt.load_state_dict(state)


def after_steps(method: str, **options: Any) -> tuple[OPT, torch.optim.Optimizer]:
    opt = OPT(mlp(), method, **options)
    optimizer = opt.optimizer(lr=0.05)
    steps(opt, optimizer)
    return opt, optimizer


def test_w_is_taken_where_v_is() -> None:
    opt, _ = after_steps("cayley", train_w=True)
    state, merged, own = opt.state_dict(), merge(opt), [*opt.parameters()]
    with opt.effective():
        for found, expected in zip(opt.parameters(), own, strict=True):
            assert found is expected
        for name, tensor in opt.state_dict().items():
            assert torch.equal(tensor, state[name]), name
        torch.testing.assert_close(merge(opt)(X), merged(X))
        assert opt.optimizer(lr=0.1).param_groups[0]["params"][0] is own[0]


@pytest.mark.parametrize(
    "act", [copy.deepcopy, pickle.dumps, OPT.double, lambda opt: opt.load_state_dict({})]
)
def test_no_copy_load_or_move_inside(act: Any) -> None:
    opt = OPT(mlp())
    with opt.effective(), pytest.raises(UserError, match="needs W, and V is in its place inside"):
        act(opt)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "standard"])
def test_opt_may_be_checkpointed_as_a_whole(method: str) -> None:
    opt, _ = after_steps(method)
    gradients = []
    for run in (opt, lambda x: checkpoint(opt, x, use_reentrant=False)):
        opt.zero_grad()
        run(X).square().sum().backward()
        gradients.append([p.grad for p in opt.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_what_a_hook_finds_in_a_backward_pass() -> None:
    opt, _ = after_steps("cayley")
    expected, state = opt(X).detach(), opt.state_dict()
    found: list[Tensor] = []

    def look(_: Tensor) -> None:
        found.extend([opt(X).detach(), merge(opt)(X).detach(), *opt.state_dict().values()])

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.requires_grad and not found:
            output.register_hook(look)

    hidden = opt.network[0].register_forward_hook(hook)
    opt(X).sum().backward()
    hidden.remove()
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], expected)
    assert all(torch.equal(a, b) for a, b in zip(found[2:], state.values(), strict=True))


@pytest.mark.parametrize("method", ["cayley", "frame", "sopt", "so"])
def test_a_method_of_the_network_trains_it(method: str) -> None:
    """V is made anew after each step inside of `effective`."""

    class Fits(nn.Sequential):
        def fit(self, optimizer: torch.optim.Optimizer) -> None:
            for _ in range(4):
                optimizer.zero_grad()
                self(X).square().mean().backward()
                optimizer.step()

    opt, other = (OPT(Fits(*mlp()), method) for _ in range(2))
    other.load_state_dict(opt.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the penalty that is left out
        opt.fit(opt.optimizer(lr=0.05))
        optimizer = other.optimizer(lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            other(X).square().mean().backward()
            optimizer.step()
    assert opt.steps == other.steps == 4
    torch.testing.assert_close(opt(X), other(X))


def test_v_is_made_anew_after_the_step_of_any_optimizer() -> None:
    opt, _ = after_steps("cayley")
    optimizer = torch.optim.SGD(opt.parameters(), lr=0.5)  # not attached
    with opt.effective() as network:
        network(X).square().sum().backward()
        optimizer.step()
        inside = network(X).detach()
    torch.testing.assert_close(inside, opt(X))


@pytest.mark.parametrize("method", ["spel", "manifold_muon"])
def test_an_orthonormal_v_keeps_no_pretrained_weights(method: str) -> None:
    with pytest.raises(UserError, match="cannot start from pretrained weights: V differs from W"):
        OPT(mlp(), method, spectrum="ones", weights="pretrained")


def test_v_that_is_written_to_before_a_step_is_named() -> None:
    opt, optimizer = after_steps("cayley")

    def train() -> None:
        with opt.effective() as network:
            network(X).sum().backward()
            network[0].weight.data.zero_()
            optimizer.step()

    with pytest.raises(UserError, match=r"inside of opt.effective\(\) writes to the weights of 0"):
        train()
    assert isinstance(opt.network[0].weight, nn.Parameter)
    opt(X)


def test_switched_off_and_on_inside() -> None:
    opt, _ = after_steps("cayley")
    trains = [name for name, p in opt.named_parameters() if p.requires_grad]
    with opt.effective():
        opt.requires_grad_(False)
        assert not any(p.requires_grad for p in opt.parameters())
        opt.requires_grad_(True)
    assert [name for name, p in opt.named_parameters() if p.requires_grad] == trains


def test_no_copy_in_a_backward_pass() -> None:
    opt = OPT(mlp())
    opt.network[0].bias.register_hook(lambda _: pickle.dumps(opt))
    with pytest.raises(UserError, match="A copy of OPT needs W, and V is in its place"):
        opt(X).sum().backward()


@pytest.mark.parametrize("way", ["forward", "a method of the network"])
def test_threads_take_turns(way: str) -> None:
    class Net(nn.Sequential):
        def embed(self, x: Tensor) -> Tensor:
            return self(x)

    opt = OPT(Net(*(nn.Linear(6, 6) for _ in range(30))), weights="gaussian", start="normal")
    call = opt if way == "forward" else opt.embed
    expected = opt(X).detach()

    def work() -> list[Tensor]:
        with torch.no_grad():
            return [call(X) for _ in range(20)]

    with ThreadPoolExecutor(3) as pool:
        for found in [pool.submit(work) for _ in range(3)]:
            for output in found.result():
                torch.testing.assert_close(output, expected)
    assert all(isinstance(layer.weight, nn.Parameter) for layer in opt.network)


@pytest.mark.parametrize("method", ["cayley", "or", "so"])
def test_a_loss_with_its_penalty_is_one_graph(method: str) -> None:
    opt = OPT(mlp(), method)

    def loss(x: Tensor) -> Tensor:
        first = next(opt.parameters())
        return opt(x).square().sum() + opt.penalty() + 0 * first.sum()

    found = torch.compile(loss, backend="eager", fullgraph=True)(X)
    torch.testing.assert_close(found, loss(X))


def test_a_gradient_of_w_is_cleared_inside() -> None:
    opt, _ = after_steps("cayley", train_w=True)
    norms = []
    for _ in range(2):
        with opt.effective() as network:
            opt.zero_grad()
            network(X).square().sum().backward()
            norms.append(nn.utils.clip_grad_norm_(opt.parameters(), 1e9))
    torch.testing.assert_close(norms[1], norms[0])


@pytest.mark.parametrize("how", ["a state of the network alone", "between backward and step"])
@pytest.mark.parametrize("method", ["ogd", "pion", "hyperball"])
def test_late_weights_are_refused_where_a_step_follows(how: str, method: str) -> None:
    opt, optimizer = after_steps(method, include=["2"])
    state = mlp().state_dict()
    opt(X).sum().backward()

    def load() -> None:
        if how == "between backward and step":
            opt.network.load_state_dict(state)
            optimizer.step()
        else:
            opt.load_state_dict({f"network.{name}": W for name, W in state.items()}, strict=False)

    with pytest.raises(UserError, match="the weights of 2 were written to after OPT took the net"):
        load()


def test_private_names_of_opt_in_the_network() -> None:
    class Own(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 6)
            self._swap, self._last = True, X[:1]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (self._last if self._swap else 0)

    opt = OPT(Own(), "mhe")
    other = copy.deepcopy(opt)
    torch.testing.assert_close(other(X), opt(X))
    torch.testing.assert_close(other.penalty(), opt.penalty())


def test_methods_that_the_network_hands_on_run_on_v() -> None:
    class Encoder(nn.Sequential):
        def encode(self, x: Tensor) -> Tensor:
            return self[1](self[0](x))

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Encoder(*mlp())
            self.features = self.body.encode

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("body"), name)

    for network in (torch.compile(Encoder(*mlp()), backend="eager"), Around()):
        opt = OPT(network, "cayley")
        with torch.no_grad():
            for R in opt.stacks.parameters():
                R.normal_()
        with opt.effective() as inside:
            expected = inside.encode(X)
        torch.testing.assert_close(opt.encode(X), expected)
        assert opt.encode(X).grad_fn is not None
    torch.testing.assert_close(opt.features(X), expected)


def test_a_method_that_gives_v_in_another_shape_is_an_error() -> None:
    class Transposed(Standard):
        changes_weight = True

        def weight(self, W: Tensor, **tensors: Tensor) -> Tensor:
            return W.mT

    with pytest.raises(
        UserError, match=r"Transposed\.weight gives V of shape \(1, 20, 6\), expected"
    ):
        OPT(mlp(), Transposed(), include=["0"])(X)


def test_a_covered_module_that_is_gone_is_an_error() -> None:
    opt = OPT(nn.Sequential(*mlp()))
    del opt.network[0]
    opt.network[0] = nn.Identity()
    with pytest.raises(UserError, match=r"0\.weight has been taken by another package"):
        opt(X)


def test_ddp_inside_of_opt_is_refused(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match=r"write DistributedDataParallel\(OPT\(network\)\)"):
            OPT(DistributedDataParallel(mlp()))
    finally:
        dist.destroy_process_group()


def test_half_precision_as_the_default() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        V = OPT(network, "orthogonal_init").neurons()["0"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert V.dtype == torch.bfloat16
    torch.testing.assert_close(V.float() @ V.float().T, 2 * torch.eye(6), atol=0.05, rtol=0)


def test_a_method_of_the_network_that_runs_later_is_refused() -> None:
    class Streams(nn.Sequential):
        def outputs(self, x: Tensor) -> Iterator[Tensor]:
            for module in self:
                x = module(x)
                yield x

        def stream(self, x: Tensor) -> Iterator[Tensor]:
            return self.outputs(x)

    opt = OPT(Streams(*mlp()))
    for method in (opt.outputs, opt.stream):
        with pytest.raises(UserError, match="runs later: write `with opt"):
            method(X)


def test_r_joins_an_optimizer_that_is_attached() -> None:
    opt = OPT(mlp(), "sopt", round_steps=2)
    optimizer = torch.optim.SGD(opt.network[0].parameters(), lr=0.1)
    opt.attach(optimizer)
    optimizer.add_param_group({"params": [*opt.stacks.parameters()]})
    steps(opt, optimizer)
    assert opt.steps == 3


@pytest.mark.parametrize("make", [None, lambda groups: Muon(groups, 0.01, 0.0)])
def test_an_optimizer_of_several_parts_is_copied_and_scheduled(make: Any) -> None:
    opt = OPT(mlp(), "frame")
    copied, optimizer = copy.deepcopy((opt, opt.optimizer(lr=0.1, make=make)))
    steps(copied, optimizer)
    error = copied.orthogonality_error()
    assert error is not None
    assert error < 1e-5
    assert pickle.loads(pickle.dumps(optimizer)).state_dict().keys() == {"state", "param_groups"}
    if make is None:
        OneCycleLR(optimizer, [0.1] * len(optimizer.param_groups), total_steps=9)
        return
    with pytest.raises(UserError, match="cannot take one more group"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.1})


def test_two_optimizers_count_a_step_once() -> None:
    opt = OPT(mlp(), "sopt")
    rotations = [p for stack in opt.stacks for p in stack.parameters()]
    parts = [torch.optim.SGD(rotations, 0.1), torch.optim.SGD(opt.network.parameters(), 0.1)]
    for optimizer in parts:
        opt.attach(optimizer)
    for _ in range(4):
        opt(X).sum().backward()
        for optimizer in parts:
            optimizer.step()
    assert opt.steps == 4


@pytest.mark.parametrize("every", [3, 100])
def test_soap_begins_anew_in_each_round(every: int) -> None:
    opt = OPT(mlp(6, 16, 16, 3), "sopt", round_steps=10)
    optimizer = opt.optimizer(lr=0.01, make=lambda groups: SOAP(groups, 0.01, 0.0, every=every))
    (R,) = (stack.trained["R"] for stack in opt.stacks if stack.layers[0].name == "2")
    still = []
    for number in range(1, 31):
        before = R.detach().clone()
        steps(opt, optimizer, 1)
        if torch.equal(R, before):
            still.append(number)
    assert still == [1, 11, 21]  # its first gradient only starts the averages


@pytest.mark.parametrize("inner", ["gs", "hr", "ls", "cayley"])
@pytest.mark.parametrize("d", [2, 3, 5, 9])
def test_sopt_moves_the_smallest_layers(inner: str, d: int) -> None:
    opt = OPT(mlp(6, d, 8, 3), "sopt", share=0.1, inner=inner, round_steps=5)
    before = opt.neurons()["2"]
    steps(opt, opt.optimizer(lr=0.1), 12)
    assert (opt.neurons()["2"] - before).norm() > 1e-3


@every_method
def test_a_layer_of_one_input_moves(method: str) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        opt = OPT(mlp(6, 1, 8, 8, 3), method)
    before = opt.effective_weights().get("2.weight", opt.network.get_parameter("2.weight")).clone()
    steps(opt, opt.optimizer(lr=0.1), 3)
    now = opt.effective_weights().get("2.weight", opt.network.get_parameter("2.weight"))
    assert (now - before).norm() > 1e-4
    plain = any("2: trained plainly, as d = 1" in str(one.message) for one in told)
    assert plain is ("2" in opt.notes)
    if plain:
        with pytest.raises(UserError, match="layer '2' cannot be covered: d = 1"):
            OPT(mlp(6, 1, 8, 8, 3), method, include=["2"])


@every_method
def test_a_neuron_of_zeros_stays_finite(method: str) -> None:
    network = mlp()
    with torch.no_grad():
        network.get_parameter("2.weight")[1] = 0
    opt = OPT(network, method)
    steps(opt, opt.optimizer(lr=0.01))
    assert opt(X).isfinite().all()
    assert merge(opt).get_parameter("2.weight").abs().max() < 100
    error = opt.orthogonality_error()
    assert error is None or error == error


def test_a_parameter_that_is_an_output_gets_no_hook() -> None:
    class WithTemperature(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.temperature = mlp(), nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.body(x), self.temperature

    opt = OPT(WithTemperature())
    opt(X)
    assert not opt.network.get_parameter("temperature")._backward_hooks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "gausian"}, "did you mean 'gaussian'"),
        ({"method": []}, "is neither a name nor a list of rules"),
        ({"method": ["cayley"]}, "is neither a name nor a list of rules"),
    ],
)
def test_wrong_arguments_end_in_a_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OPT(mlp(), **arguments)
    assert OPT(mlp(), Rule("ogd")).layers


@pytest.mark.parametrize("method", ["frame", "sopt", "poet", "cayley", "so"])
@pytest.mark.parametrize("where", ["inside", "in the backward pass"])
def test_a_step_ends_well_where_v_is_in_place(method: str, where: str) -> None:
    def train(place: str) -> list[Tensor]:
        options = {"round_steps": 3} if method in ("sopt", "poet") else {}
        torch.manual_seed(1)
        opt = OPT(mlp(6, 9, 8, 3), method, **options)
        optimizer = opt.optimizer(lr=0.05)
        if place == "in the backward pass":
            trained = [parameter for parameter in opt.parameters() if parameter.requires_grad]
            seen: list[Tensor] = []

            def end(parameter: Tensor) -> None:
                seen.append(parameter)
                if len(seen) % len(trained) == 0:  # the last of the step
                    optimizer.step()

            for parameter in trained:
                parameter.register_post_accumulate_grad_hook(end)
        for _ in range(8):
            optimizer.zero_grad()
            if place == "inside":
                with opt.effective() as network:
                    (network(X).square().mean() + 0 * opt.network[4].bias.sum()).backward()
                    optimizer.step()
            else:
                opt(X).square().mean().backward()
                if place == "after":
                    optimizer.step()
        assert opt.steps == 8
        return [*opt.effective_weights().values(), *opt.network.parameters()]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the penalty that is left out
        for found, expected in zip(train(where), train("after"), strict=True):
            torch.testing.assert_close(found, expected)


def test_a_penalty_on_w_is_made_inside() -> None:
    opt = OPT(mlp(), "so")
    with opt.effective() as network:
        loss = network(X).sum()
        inside = opt.penalty()
    opt(X)
    torch.testing.assert_close(inside, opt.penalty())
    assert loss.requires_grad


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state"])
def test_late_weights_of_a_copy_are_refused(how: str) -> None:
    opt = OPT(mlp(), "frame")
    if how == "state":
        opt.load_state_dict(OPT(mlp(), "frame").state_dict())
    else:
        opt = copy.deepcopy(opt) if how == "deepcopy" else pickle.loads(pickle.dumps(opt))
    opt.network[2].load_state_dict(nn.Linear(20, 8).state_dict())
    with pytest.raises(UserError, match="were written to after OPT took the network"):
        opt(X)


@every_method
def test_a_head_that_is_an_embedding(method: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.body = nn.Embedding(11, 6), mlp(6, 7, 6)
            self.head = nn.Linear(6, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.embedding(x)))

    opt = OPT(Tied(), method)
    optimizer = opt.optimizer(lr=0.01)
    opt(torch.arange(5)).square().sum().backward()
    optimizer.step()


def test_freezing_all_and_back_leaves_w_frozen() -> None:
    opt = OPT(mlp())
    before = [parameter.requires_grad for parameter in opt.parameters()]
    assert not any(p.requires_grad for p in opt.requires_grad_(False).parameters())
    assert [p.requires_grad for p in opt.requires_grad_(True).parameters()] == before


def test_a_warm_up_from_zero_is_no_lost_rate() -> None:
    opt = OPT(mlp(), "frame")
    optimizer = opt.optimizer(lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            steps(opt, optimizer, 1)
            schedule.step()


def test_a_merged_network_has_no_gradients_and_opt_keeps_its_own() -> None:
    opt = OPT(mlp())
    opt(X).sum().backward()
    bias = opt.network[0].bias
    kept = bias.grad
    assert all(parameter.grad is None for parameter in merge(opt).parameters())
    assert kept is not None
    assert bias.grad is kept


def test_an_optimizer_around_another_counts_a_step_once() -> None:
    class Around(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            super().__init__(inner.param_groups, {})
            self.inner = inner

        def step(self, closure: Any = None) -> None:
            self.inner.step()

    opt = OPT(mlp(), "sopt")
    inner = torch.optim.SGD(opt.parameters(), 0.1)
    outer = Around(inner)
    for optimizer in (inner, outer):
        opt.attach(optimizer)
    for _ in range(4):
        opt(X).sum().backward()
        outer.step()
    assert opt.steps == 4


def test_one_rule_twice_and_a_joint_optimizer_that_is_attached() -> None:
    rule = Rule("frame", max_d=8)
    opt, optimizer = (made := OPT(mlp(), [rule, rule, Rule("sopt")])), made.optimizer(lr=0.1)
    opt, optimizer = copy.deepcopy((opt, optimizer))
    opt.attach(optimizer)
    steps(opt, optimizer)
    assert opt.steps == 3


@pytest.mark.parametrize("method", OWN_OPTIMIZER)
def test_a_layer_without_a_gradient_stays(method: str) -> None:
    opt = OPT(mlp(), method)
    optimizer = opt.optimizer(lr=0.1, weight_decay=0.0)
    before = opt.neurons()
    (0 * opt(X).sum()).backward()
    optimizer.step()
    for name, V in opt.neurons().items():
        torch.testing.assert_close(V, before[name], atol=1e-5, rtol=1e-5)


def test_the_base_of_geotorch_is_the_same_in_every_process() -> None:
    pytest.importorskip("geotorch")
    from opt_runner.methods.maps import parametrization

    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        parametrization._registered.cache_clear()
        opt = OPT(mlp(), "parametrization", constraint="geotorch.orthogonal")
        outputs.append((opt(X), torch.rand(2)))
    torch.testing.assert_close(outputs[0][0], outputs[1][0])
    torch.manual_seed(1)
    OPT(mlp(), "parametrization", constraint="geotorch.orthogonal")  # from the cache now
    torch.testing.assert_close(torch.rand(2), outputs[1][1])
