"""Labelled point clouds."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from opt_runner.datasets.data import Samples
from opt_runner.datasets.folder.decode import digest_all
from opt_runner.datasets.folder.tree import FolderTree, scan
from opt_runner.datasets.labelled import Labelled
from opt_runner.datasets.meshes import SOLIDS, Floats, on_surface, read_off, solid
from opt_runner.errors import UserError, first_line
from opt_runner.files import expanded, readable

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
    """Point clouds in the folders of an `ImageFolder`, or solids made here.

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
        if self.root is not None:
            _ = self._tree

    def fingerprint(self) -> str:
        content: list[object] = [self.points, self.points_seed]
        if self.root is not None:
            content += [self._tree.train_count, digest_all(self._tree.files)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def load(self) -> Points:
        """Return the clouds. Raises UserError as `check` does, and if a file cannot be read."""
        if self.root is None:
            return self._solids()
        inputs = _inputs(np.stack([self._read(Path(file.path)) for file in self._tree.files]))
        return Points(*self._tree.halves(inputs), classes=self._tree.classes)

    @cached_property
    def _tree(self) -> FolderTree:
        assert self.root is not None
        return scan(self.root, (".npy", ".off"))

    def _read(self, path: Path) -> Floats:
        assert self.root is not None
        # By its name, so that more files do not change the points of the others.
        name = hashlib.sha256(os.fsencode(path.relative_to(self.root))).digest()
        random = np.random.default_rng([self.points_seed, int.from_bytes(name[:8])])
        with readable(path):
            try:
                if path.suffix.lower() == ".off":
                    return on_surface(read_off(path), self.points, random)
                cloud = _array(path)
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
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
        labels = torch.arange(len(SOLIDS)).repeat_interleave(_CLOUDS)
        test = torch.arange(len(labels)) % _TEST_EVERY == _TEST_EVERY - 1
        both = Samples(_inputs(stacked), labels)
        return Points(both[~test], both[test], classes=list(SOLIDS))


def _array(path: Path) -> Floats:
    try:
        found = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # of a damaged file numpy raises anything
        raise UserError(f"it is no .npy file of plain numbers: {first_line(error)}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
        raise UserError("it must hold one array of real numbers")
    if found.ndim != 2 or found.shape[1] != 3 or not len(found):
        raise UserError(f"a cloud must have the shape (points, 3), got {found.shape}")
    if not np.isfinite(found).all():
        raise UserError("it holds numbers that are not finite")
    return found.astype(float)


def _inputs(clouds: Floats) -> Tensor:
    return torch.from_numpy(_unit(clouds).astype(np.float32))


def _unit(clouds: Floats) -> Floats:
    """Return the clouds (N, P, 3), centred, with 1 as the largest distance from 0."""
    centred = clouds - clouds.mean(1, keepdims=True)
    radius = np.linalg.norm(centred, axis=-1).max(-1)[:, None, None]
    unit: Floats = centred / np.where(radius > 0, radius, 1)
    return unit
