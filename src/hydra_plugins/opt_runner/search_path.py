"""Our sweepers and launchers keep their names beside other packages' plugins."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

from opt_runner.config.compose import conf_dir


class OwnNames(SearchPathPlugin):
    """Removes configs of Hydra's store that have the names of files in conf/hydra/.

    hydra-optuna-sweeper and hydra-ray-launcher store `optuna` and `ray`, and Hydra would check our
    files against them. Commands of other packages keep all of theirs.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        conf = conf_dir()
        if any(one.path.removeprefix("file://") == str(conf) for one in search_path.get_path()):
            for path in conf.glob("hydra/*/*.yaml"):
                group = ConfigStore.instance().repo.get("hydra", {}).get(path.parent.name, {})
                group.pop(path.name, None)
