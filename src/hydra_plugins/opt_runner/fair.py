"""hydra/sweeper=fair: every method is tuned alike on validation images, then compared."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from hydra_plugins.opt_runner._sweeper import RunSweeper
from opt_runner.errors import UserError, explain


class FairSweeper(RunSweeper):
    """options: the keys of conf/hydra/sweeper/fair.yaml."""

    def __init__(self, params: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(params)
        self.options = options

    def conduct(self, arguments: Sequence[str]) -> int:
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=fair needs Optuna: pip install 'opt-runner[search]'")
        from opt_runner.runs import fair

        try:
            options = fair.Options(**self.options)
        except ValidationError as error:
            raise UserError(explain(error, "hydra.sweeper", fair.Options.model_fields)) from error
        return fair.conduct(fair.parse(self.after_params(arguments)), options, self, self.launch)
