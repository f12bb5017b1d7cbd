"""hydra/sweeper=optuna: a search for the least validation error."""

from collections.abc import Sequence
from importlib.util import find_spec

from hydra_plugins.opt_runner._sweeper import SearchSweeper
from opt_runner.errors import UserError


class OptunaSweeper(SearchSweeper):
    """Sweeper that searches with Optuna. content: see conf/hydra/sweeper/optuna.yaml."""

    def conduct(self, arguments: Sequence[str]) -> int:
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna needs Optuna: pip install optuna")
        from opt_runner.sweep import search
        from opt_runner.sweep.space import parse_space

        options = search.SearchOptions.read(self.content)
        return search.conduct(parse_space(options.after_params(arguments)), options, self)
