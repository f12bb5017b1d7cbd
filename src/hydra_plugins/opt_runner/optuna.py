"""hydra/sweeper=optuna: a search for the least validation error."""

from collections.abc import Sequence

from hydra_plugins.opt_runner._sweeper import SearchSweeper


class OptunaSweeper(SearchSweeper):
    """options: the keys of conf/hydra/sweeper/optuna.yaml."""

    def conduct(self, arguments: Sequence[str]) -> int:
        self.require_optuna("optuna")
        from opt_runner.sweep import search, space

        options = search.Options.read(self.options)
        return search.conduct(space.parse(self.after_params(arguments)), options, self)
