"""hydra/sweeper=fair: every method is tuned alike on validation images, then compared."""

from collections.abc import Sequence

from hydra_plugins.opt_runner._sweeper import SearchSweeper


class FairSweeper(SearchSweeper):
    """options: the keys of conf/hydra/sweeper/fair.yaml."""

    def conduct(self, arguments: Sequence[str]) -> int:
        self.require_optuna("fair")
        from opt_runner.sweep import entrants, fair

        options = entrants.Options.read(self.options)
        command = entrants.parse(self.after_params(arguments))
        return fair.conduct(command, options, self, self.launch)
