"""Weights of torchvision by name, as IMAGENET1K_V1, in the cache of torch.hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opt_runner.errors import UserError, nearest
from opt_runner.files import digest, fetching, locked_where_possible
from opt_runner.networks.by_name import WITH_AUXILIARY
from opt_runner.networks.pretrained import read_weights


@dataclass(frozen=True)
class Published:
    """Weights that torchvision publishes for one of its classifiers.

    source: torchvision's own description. file: in the cache, whether it is there or not.
    mean, std, size: of the images that the weights were trained on. classes: their number.
    """

    arch: str
    name: str
    source: Any
    file: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    classes: int

    @staticmethod
    def of(arch: str, name: str) -> "Published":
        """Return the weights of this name. Raises UserError if there are none."""
        from torchvision import models  # slow to import

        try:
            known = models.get_model_weights(arch)
        except ValueError as error:
            raise UserError(f"model.arch={arch}: no classifier of torchvision") from error
        if name not in known.__members__:
            names = ", ".join(known.__members__) or "none"
            raise UserError(
                f"model.weights={name}: {arch} has {names}{nearest(name, known.__members__)}"
            )
        if arch in WITH_AUXILIARY:
            raise UserError(
                f"model.weights={name}: {arch} changes its images by itself, which these weights "
                "need and this package leaves out: choose another model.arch"
            )
        source = known[name]
        images = source.transforms()
        file = Path(torch.hub.get_dir(), "checkpoints", source.url.rpartition("/")[2])
        return Published(
            arch, name, source, file, tuple(images.mean), tuple(images.std), images.crop_size[0],
            len(source.meta["categories"]),
        )  # fmt: skip

    def fetch(self) -> None:
        """Download the file unless it is in the cache, and compare it with its published digest.

        Raises UserError if neither works.
        """
        if not self.file.is_file():
            self._download()
        found, published = digest(self.file), self._digits
        if not found.startswith(published):
            raise UserError(
                f"model.weights={self.name}: {self.file} is not the published file: its SHA-256 "
                f"begins with {found[: len(published)]}; delete it, or give weights of your own by "
                "model.weights=FILE"
            )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights by the names of today. Raises UserError as `fetch` does."""
        from torchvision import models  # slow to import

        self.fetch()
        read_weights(self.file)  # tensors alone: torchvision would unpickle anything
        network: nn.Module = models.get_model(self.arch, weights=self.source, progress=False)
        return network.state_dict()

    @property
    def _digits(self) -> str:
        """Return the first digits of the SHA-256, which the file's name ends in."""
        return self.file.stem.rpartition("-")[2]

    def _download(self) -> None:
        url = self.source.url

        def failed(reason: str) -> str:
            return (
                f"model.weights={self.name}: {self.file} is missing, and {url} cannot be fetched "
                f"({reason}): put the file there"
            )

        with fetching(failed):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with locked_where_possible(self.file.with_suffix(".lock")):
                if not self.file.is_file():
                    torch.hub.download_url_to_file(
                        url, str(self.file), hash_prefix=self._digits, progress=False
                    )


def without_head(
    given: dict[str, Tensor], network: nn.Module, classes: int, own_classes: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights without those of the classifier, and the names of these.

    They have `classes` rows, and in the network `own_classes`; nothing else differs.
    """
    own = network.state_dict()
    head = [
        name
        for name, tensor in given.items()
        if name in own
        and (tensor.shape[:1], own[name].shape[:1]) == ((classes,), (own_classes,))
        and tensor.shape != own[name].shape
        and tensor.shape[1:] == own[name].shape[1:]
    ]
    return {name: tensor for name, tensor in given.items() if name not in head}, head
