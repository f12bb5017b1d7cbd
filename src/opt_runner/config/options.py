"""The keys of a YAML in conf/hydra/: the options of a sweeper or of a launcher."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError

from opt_runner.config.schema import Node
from opt_runner.errors import UserError, explain


class Options(Node):
    """where: the node of the config that has the keys, for messages."""

    where: ClassVar[str]

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Raises UserError, one line a fault."""
        try:
            return cls.model_validate(dict(content))
        except ValidationError as error:
            raise UserError(explain(error, cls.where, cls.model_fields)) from error


class SweeperOptions(Options):
    where = "hydra.sweeper"


class LauncherOptions(Options):
    where = "hydra.launcher"

    retries: Annotated[int, Field(ge=0)]
