"""Trust in the code that a record's config names."""

import re
from dataclasses import dataclass
from pathlib import Path

from opt_runner.config.components import Component
from opt_runner.config.compose import conf_dir
from opt_runner.errors import UserError

_TARGET = re.compile(r"""_target_['"]?\s*:\s*['"]?([\w.]+)""")
_MOST = 200  # characters of a message


@dataclass(frozen=True)
class Trust:
    """The user's trust in a record, whose config names the code to run.

    Components of this package, which the files of conf/ name, are always built.

    everything: build everything that the config names.
    folder: also build components that the files in this folder name, as with --config-dir.
    """

    everything: bool = False
    folder: Path | None = None

    def check(self, component: Component, group: str) -> None:
        """Raise UserError if the component is neither of this package nor trusted.

        group: the group in conf/, such as `model`.
        """
        allowed = _targets(conf_dir() / group)
        if self.folder is not None:
            allowed |= _targets(self.folder)
        if self.everything or component.target in allowed:
            return
        options = ", ".join(f"{key}={value!r}" for key, value in component.options.items())
        call = f"{component.target}({options})"
        call = call if len(call) <= _MOST else f"{call[:_MOST]}..."
        raise UserError(
            f"the record's {group} would run {call}, which is not of this package: only if you "
            "know who wrote it, add --trust, or --config-dir DIR of your own files that name it"
        )


STRANGER = Trust()


def _targets(folder: Path) -> set[str]:
    """Return every `_target_` that the YAML files below a folder name."""
    files = (path for path in folder.rglob("*.yaml") if path.is_file())
    return {name for file in files for name in _TARGET.findall(file.read_text(errors="replace"))}
