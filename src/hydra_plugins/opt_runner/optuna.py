"""hydra/sweeper=optuna: a search for the least validation error."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from hydra_plugins.opt_runner._sweeper import RunSweeper
from opt_runner.errors import UserError, explain


class OptunaSweeper(RunSweeper):
    """options: the keys of conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, params: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(params)
        self.options = options

    def conduct(self, arguments: Sequence[str]) -> int:
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'opt-runner[search]'")
        from opt_runner.runs import search, space

        try:
            options = search.Options(**self.options)
        except ValidationError as error:
            raise UserError(explain(error, "hydra.sweeper", search.Options.model_fields)) from error
        return search.conduct(space.parse(self.after_params(arguments)), options, self)
