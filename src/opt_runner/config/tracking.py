"""The node `tracking` of the config."""

from typing import Any, Literal

from pydantic import ConfigDict, model_validator

from opt_runner.config.components import Component, Node


class Tracking(Node):
    """The trackers by their names, and options of Weights & Biases."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Component]

    project: str | None = None
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    tags: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: Any) -> Any:
        """Give each tracker its key as its name."""
        if not isinstance(content, dict):
            return content
        return {k: {"name": k, **v} if isinstance(v, dict) else v for k, v in content.items()}

    @property
    def trackers(self) -> dict[str, Component]:
        return self.__pydantic_extra__
