"""Options of a sweeper or of a launcher: the keys of their YAML in conf/hydra/."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from opt_runner.config.components import Node
from opt_runner.errors import explained


class Options(Node):
    """Options of a node of the config. where: the node's name in messages."""

    where: ClassVar[str]

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Return the checked options. Raises UserError with one line for each fault."""
        with explained(cls.where, cls.model_fields):
            return cls.model_validate(dict(content))


class SweeperOptions(Options):
    """Options that every sweeper has. params: the overrides of an experiment."""

    where = "hydra.sweeper"
    params: dict[str, Any] | None = None

    def after_params(self, arguments: Sequence[str], grid: Mapping[str, Any] = {}) -> list[str]:
        """Return the overrides of the experiment, then the grid's, then the command line's."""
        return [*(f"{k}={v}" for k, v in {**(self.params or {}), **grid}.items()), *arguments]


class GridOptions(SweeperOptions):
    """Options of conf/hydra/sweeper/grid.yaml."""

    grids: tuple[dict[str, Any], ...] | None = None
