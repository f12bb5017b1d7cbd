"""Labelled point clouds."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from opt_runner.datasets.data import Samples
from opt_runner.datasets.labelled import Labelled
from opt_runner.datasets.meshes import SOLIDS, on_surface, read_off, solid
from opt_runner.errors import UserError
from opt_runner.files import expanded

Floats = NDArray[np.float64]

_LAYOUT = "train/<class>/*.npy or *.off and test/<class>/*"
# The embedded clouds of each solid, every fifth of which tests; the noise, of radius 1.
_CLOUDS, _TEST_EVERY, _NOISE = 50, 5, 0.02


@dataclass(frozen=True, eq=False)
class Points(Labelled):
    """Point clouds with one label each.

    train, test: inputs are clouds, float32 (N, P, 3); their points are in no order.
    """

    samples: ClassVar[str] = "point clouds"

    @property
    def scale(self) -> str:
        return "centred clouds whose farthest point has the distance 1"

    @property
    def gives(self) -> dict[str, Any]:
        return {"point_dims": self.train.inputs.shape[-1], **super().gives}


class PointFolder:
    """Point clouds in `root/train/<class>/` and `root/test/<class>/`, or solids made here.

    A file is a cloud (.npy, P x 3) or a mesh (.off), on which points are drawn uniformly by area.
    Each cloud gets the same number of points, is centred, and is scaled to the unit sphere.

    root: the folder; None: twelve solids, as `meshes.SOLIDS`, 50 clouds each, turned at random and
        with noise: 480 to train on, 120 to test on.
    points: the points of a cloud. Of more points in a file some are drawn; fewer are repeated.
    points_seed: the seed that draws them.
    """

    content = Points

    def __init__(
        self,
        root: str | None = None,
        points: Annotated[int, Field(gt=0, le=2**20)] = 256,
        points_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    ) -> None:
        self.root = Path(expanded(root)) if root is not None else None
        self.points = points
        self.points_seed = points_seed

    def check(self) -> None:
        """Raise UserError if folders or files are missing, or classes do not match."""
        if self.root is not None:
            _ = self._files

    def fingerprint(self) -> str:
        """Return a hash of the options and of the names and contents of all files."""
        content: list[object] = [self.points, self.points_seed]
        if self.root is not None:
            for name, path in self._named():
                try:
                    content += [name, hashlib.sha256(path.read_bytes()).hexdigest()]
                except OSError as error:
                    raise UserError(f"{path} cannot be read: {error.strerror}") from error
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def load(self) -> Points:
        """Return the clouds. Raises UserError as `check` does, and if a file cannot be read."""
        if self.root is None:
            return self._solids()
        halves = []
        for half in self._files.values():
            clouds = [self._read(path) for files in half.values() for path in files]
            labels = np.repeat(np.arange(len(half)), [len(files) for files in half.values()])
            halves.append(_samples(clouds, labels))
        train, test = halves
        return Points(train, test, classes=list(self._files["train"]))

    @cached_property
    def _files(self) -> dict[str, dict[str, list[Path]]]:
        """Return {half: {class: files}}."""
        assert self.root is not None
        found: dict[str, dict[str, list[Path]]] = {}
        for half in ("train", "test"):
            folder = self.root / half
            if not folder.is_dir():
                raise UserError(f"dataset.root: {folder} is no folder: {_LAYOUT} is expected")
            classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
            found[half] = {entry.name: _clouds(entry) for entry in classes}
        if odd := sorted(found["train"].keys() ^ found["test"].keys()):
            raise UserError(
                f"dataset.root: {self.root} has the class {odd[0]} in one of train and test alone"
            )
        if len(found["train"]) < 2:
            raise UserError(
                f"dataset.root: {self.root}/train has {len(found['train'])} classes, and two are "
                f"the least: {_LAYOUT} is expected"
            )
        return found

    def _named(self) -> Iterator[tuple[str, Path]]:
        assert self.root is not None
        for half in self._files.values():
            for files in half.values():
                yield from ((str(path.relative_to(self.root)), path) for path in files)

    def _read(self, path: Path) -> Floats:
        assert self.root is not None
        # By its name, so that more files do not change the points of the others.
        name = hashlib.sha256(str(path.relative_to(self.root)).encode()).digest()
        random = np.random.default_rng([self.points_seed, int.from_bytes(name[:8])])
        try:
            if path.suffix.lower() == ".off":
                return on_surface(read_off(path), self.points, random)
            cloud = _array(path)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        order = random.permutation(len(cloud))
        return cloud[np.resize(order, self.points)]

    def _solids(self) -> Points:
        random = np.random.default_rng([self.points_seed, len(SOLIDS)])
        clouds = []
        for name in SOLIDS:
            triangles = solid(name)
            for _ in range(_CLOUDS):
                turn, _ = np.linalg.qr(random.standard_normal((3, 3)))
                clouds.append(on_surface(triangles, self.points, random) @ turn)
        stacked = _unit(np.stack(clouds))
        stacked += _NOISE * random.standard_normal(stacked.shape)
        labels = np.repeat(np.arange(len(SOLIDS)), _CLOUDS)
        test = np.arange(len(labels)) % _TEST_EVERY == _TEST_EVERY - 1
        return Points(
            _samples(stacked[~test], labels[~test]),
            _samples(stacked[test], labels[test]),
            classes=list(SOLIDS),
        )


def _clouds(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".npy", ".off"))
    if not files:
        raise UserError(f"dataset.root: {folder} has no .npy and no .off file")
    return files


def _array(path: Path) -> Floats:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"it is no .npy file of plain numbers: {error}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
        raise UserError("it must hold one array of real numbers")
    if found.ndim != 2 or found.shape[1] != 3 or not len(found):
        raise UserError(f"a cloud must have the shape (points, 3), got {found.shape}")
    if not np.isfinite(found).all():
        raise UserError("it holds numbers that are not finite")
    return found.astype(float)


def _samples(clouds: list[Floats] | Floats, labels: NDArray[np.int64]) -> Samples:
    inputs = torch.from_numpy(_unit(np.stack(list(clouds))).astype(np.float32))
    return Samples(inputs, torch.from_numpy(labels))


def _unit(clouds: Floats) -> Floats:
    """Return the clouds (N, P, 3), centred, with 1 as the largest distance from 0."""
    centred = clouds - clouds.mean(1, keepdims=True)
    radius = np.linalg.norm(centred, axis=-1).max(-1)[:, None, None]
    unit: Floats = centred / np.where(radius > 0, radius, 1)
    return unit
