"""A module around a network that frameworks can take for the network itself."""

import inspect
from abc import abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from types import MappingProxyType
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from opt_runner.errors import UserError


class Wrapper(nn.Module):
    """A module with the signature, the attributes and the methods of its `network`.

    Its own attributes and methods come first, where both have one of that name. Methods of the
    network run inside of `effective`, such as `generate` of a language model. Its submodules and
    parameters do not reach through: they would compute with W, as its properties and the functions
    that its methods return do.
    A state_dict has each shared parameter once, as safetensors wants it.

    made_anew: names of attributes that no copy or pickle takes along.
    """

    network: nn.Module
    _shared: Mapping[str, str] = MappingProxyType({})  # at the last load, see `_aliases`
    made_anew: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def effective(self, of: str | None = None) -> AbstractContextManager[nn.Module]: ...

    @property
    @abstractmethod
    def _has_penalty(self) -> bool: ...

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Return False where Trainer must divide the loss by the parts of a batch itself.

        The penalty is the same in each part, whatever share of the tokens it has.
        """
        if self._has_penalty:
            return False
        parameters = inspect.signature(self.network.forward).parameters.values()
        default = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        return bool(getattr(self.network, "accepts_loss_kwargs", default))

    def _take_signature(self) -> None:
        self.__class__ = _like(type(self), type(self.network))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the network that this module does not have."""
        modules = self.__dict__.get("_modules", {})
        for own in (
            self.__dict__.get("_parameters", {}),
            self.__dict__.get("_buffers", {}),
            modules,
        ):
            if name in own:
                return own[name]
        network = modules.get("network")
        if network is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = getattr(network, name)
        if isinstance(found, nn.Module | nn.Parameter):
            raise AttributeError(
                f"{name} of the network computes with W, not with V: write "
                f"`with opt.effective() as network: network.{name}`"
            )
        # Of a part of it as well: torch.compile and peft hand on the methods of what they wrap.
        if not inspect.ismethod(found) or all(found.__self__ is not m for m in network.modules()):
            return found

        @wraps(found)
        def on_V(*args: Any, **kwargs: Any) -> Any:
            with self.effective(of=name):
                try:
                    result = found(*args, **kwargs)
                except ValueError as error:
                    if "non-leaf" not in str(error):
                        raise
                    raise UserError(
                        f"{name} makes an optimizer of the network's own parameters, which leaves "
                        "R out: use opt.optimizer(...), or opt.parameters() and opt.attach"
                    ) from error
            if isinstance(result, Generator | AsyncGenerator | Coroutine):
                raise UserError(
                    f"{name} runs later: write `with opt.effective() as network:`, or "
                    f"opt.network.{name} if it needs no weights"
                )
            return result

        return on_V

    def __getstate__(self) -> dict[str, Any]:
        left_out = self.made_anew | {"_compiled_call_impl"}  # as nn.Module itself does
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._take_signature()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the classes that this one is made of."""
        if type(self) not in _made.values():
            return super().__reduce_ex__(protocol)
        return _blank, (type(self).__base__,), self.__getstate__()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state as any module, but each shared parameter once."""
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        state = super().state_dict(*args, **kwargs)
        for name in self._aliases():
            state.pop(f"{prefix}network.{name}", None)
        return state

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._shared = self._aliases()  # which `assign=True` would end
        for name, first in self._shared.items():
            value = state_dict.get(f"{prefix}network.{first}")
            if value is not None:
                state_dict.setdefault(f"{prefix}network.{name}", value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __prepare_scriptable__(self) -> None:
        """Raise UserError: torch.jit.script and trace take only what computes with its own W."""
        raise UserError("TorchScript cannot take OPT: script or trace merge(opt)")

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Move everything; what is shared stays so, also after `to_empty`."""
        shared = self._aliases()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._share(shared)
        return self

    def _share(self, aliases: Mapping[str, str]) -> None:
        """Give each {name: first name} the parameter of the first again."""
        for name, first in aliases.items():
            module, _, attribute = name.rpartition(".")
            parameters = self.network.get_submodule(module)._parameters
            parameters[attribute] = self.network.get_parameter(first)

    def _aliases(self) -> dict[str, str]:
        """Return {name: first name} of the parameters that the network has more than once."""
        first: dict[int, str] = {}
        found: dict[str, str] = {}
        for name, parameter in self.network.named_parameters(remove_duplicate=False):
            if first.setdefault(id(parameter), name) != name:
                found[name] = first[id(parameter)]
        return found


# Attributes of OPT that are set when it is made, and never again.
_OWN = {"hidden", "method", "notes", "per_group"}
_made: dict[tuple[type[Wrapper], type[nn.Module]], type[Wrapper]] = {}


def _like(cls: type[Wrapper], network: type[nn.Module]) -> type[Wrapper]:
    """Return the class with the signature of the network's forward, which Trainer reads."""
    if (cls, network) in _made:
        return _made[cls, network]
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):  # of a forward that has none
        return cls

    def forward(self: Wrapper, *args: Any, **kwargs: Any) -> Any:
        return cls.forward(self, *args, **kwargs)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    content = {
        "forward": forward,
        "__module__": cls.__module__,
        "__setattr__": _set,
    }
    # Some read the network's name as well, for example for its labels.
    made = type(f"{cls.__name__}{network.__name__}", (cls,), content)
    return _made.setdefault((cls, network), made)


def _set(self: Wrapper, name: str, value: Any) -> None:
    """Set an attribute of the network, such as `drop_path_prob`, where it is read: there."""
    own = name in self.__dict__ or name in self.made_anew or hasattr(type(self), name)
    network = self._modules.get("network")
    if name in _OWN & self.__dict__.keys() and hasattr(network, name):
        raise AttributeError(f"{name} is an attribute of OPT, too: write opt.network.{name} = ...")
    if own or name in self._modules or not hasattr(network, name):
        nn.Module.__setattr__(self, name, value)
    elif isinstance(getattr(network, name), nn.Module | nn.Parameter):
        raise AttributeError(
            f"{name} is a part of the network: set it before OPT takes the network, or write "
            f"opt.network.{name} = ... if no method covers it"
        )
    else:
        setattr(network, name, value)


def _blank(cls: type[Wrapper]) -> Wrapper:
    return cls.__new__(cls)
