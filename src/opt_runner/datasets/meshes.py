"""Triangle meshes: solids, files of the form OFF, and points drawn on their surface."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opt_runner.errors import UserError

Floats = NDArray[np.float64]

_ROUND = 24  # sides of a solid of revolution
_ARC = np.linspace(0, np.pi, 13)
_CIRCLE = np.linspace(0, 2 * np.pi, _ROUND + 1)
# Profiles (r, z), and the number of sides around the z-axis.
SOLIDS: dict[str, tuple[list[tuple[float, float]], int]] = {
    "capsule": ([(0.5 * np.sin(t), 0.5 * np.cos(t) + np.sign(6 - i) * 0.5)
                 for i, t in enumerate(_ARC)], _ROUND),
    "cone": ([(0, -1), (0.8, -1), (0, 1)], _ROUND),
    "cube": ([(0, -1), (2**0.5, -1), (2**0.5, 1), (0, 1)], 4),
    "cylinder": ([(0, -1), (0.6, -1), (0.6, 1), (0, 1)], _ROUND),
    "ellipsoid": ([(0.5 * np.sin(t), np.cos(t)) for t in _ARC], _ROUND),
    "hexagonal_prism": ([(0, -0.5), (1, -0.5), (1, 0.5), (0, 0.5)], 6),
    "octahedron": ([(0, -1), (1, 0), (0, 1)], 4),
    "prism": ([(0, -1), (0.8, -1), (0.8, 1), (0, 1)], 3),
    "pyramid": ([(0, 0), (1, 0), (0, 1.5)], 4),
    "sphere": ([(np.sin(t), np.cos(t)) for t in _ARC], _ROUND),
    "tetrahedron": ([(0, 0), (1, 0), (0, 2**0.5)], 3),
    "torus": ([(1 + 0.35 * np.cos(t), 0.35 * np.sin(t)) for t in _CIRCLE], _ROUND),
}  # fmt: skip


def solid(name: str) -> Floats:
    """Return the triangles (T, 3, 3) of one of `SOLIDS`: its profile turned around the z-axis."""
    profile, sides = SOLIDS[name]
    r, z = np.array(profile, dtype=float).T
    angle = 2 * np.pi * np.arange(sides + 1)[:, None] / sides
    rings = np.stack(
        [r * np.cos(angle), r * np.sin(angle), np.broadcast_to(z, (sides + 1, len(z)))], -1
    )
    a, b, c, d = rings[:-1, :-1], rings[1:, :-1], rings[1:, 1:], rings[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], -2), np.stack([a, c, d], -2)]).reshape(-1, 3, 3)


def on_surface(triangles: Floats, count: int, random: np.random.Generator) -> Floats:
    """Return points (count, 3) drawn uniformly by area on triangles (T, 3, 3).

    Raises UserError if the area is 0.
    """
    a, b, c = triangles.swapaxes(0, 1)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
    if not area.sum() > 0:
        raise UserError("its faces have no area")
    chosen = random.choice(len(area), count, p=area / area.sum())
    u, v = random.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    points: Floats = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    return points


def read_off(path: Path) -> Floats:
    """Return the triangles (T, 3, 3) of an OFF file; polygons become fans of triangles.

    ModelNet has files whose first line runs on, as `OFF490 518 0`.
    Raises UserError if the file is none, and OSError.
    """
    text = path.read_text(errors="replace")
    lines = [line for line in (raw.partition("#")[0].split() for raw in text.splitlines()) if line]
    if not lines or not lines[0][0].startswith("OFF"):
        raise UserError("it does not begin with OFF")
    lines[0][0] = lines[0][0].removeprefix("OFF")
    if not any(lines[0]):
        lines = lines[1:]
    try:
        vertices, faces = (int(word) for word in [w for w in lines[0] if w][:2])
        points = np.array([line[:3] for line in lines[1 : vertices + 1]], dtype=float)
        fans = [[int(w) for w in line[1 : int(line[0]) + 1]]
                for line in lines[vertices + 1 : vertices + 1 + faces]]  # fmt: skip
        corners = np.array([(fan[0], b, c) for fan in fans for b, c in pairwise(fan[1:])])
    except (ValueError, IndexError) as error:
        raise UserError(f"it is no OFF file: {error}") from error
    if not faces:
        raise UserError("it has no faces")
    if points.shape != (vertices, 3) or len(fans) != faces or not len(corners):
        raise UserError(
            f"it is cut short: it announces {vertices} vertices and {faces} faces, and has "
            f"{len(points)} and {len(fans)}"
        )
    if corners.min() < 0 or corners.max() >= vertices or not np.isfinite(points).all():
        raise UserError(f"a face has a vertex outside of 0 to {vertices - 1}, or one is not finite")
    triangles: Floats = points[corners]
    return triangles
