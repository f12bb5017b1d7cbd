"""hydra/sweeper=fair: every method is tuned alike on validation images, then compared."""

from collections.abc import Sequence

from hydra_plugins.opt_runner._sweeper import SearchSweeper


class FairSweeper(SearchSweeper):
    """Sweeper of a fair comparison. content: see conf/hydra/sweeper/fair.yaml."""

    def conduct(self, arguments: Sequence[str]) -> int:
        from opt_runner.sweep import entrants, fair

        self.own_launcher()
        options = entrants.ComparisonOptions.read(self.content)
        command = entrants.parse_command(options.after_params(arguments))
        return fair.conduct(command, options, self)
