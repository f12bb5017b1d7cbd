"""Point clouds: solids, files of arrays and meshes, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from opt_runner.datasets import PointFolder
from opt_runner.datasets.meshes import on_surface, read_off, solid
from opt_runner.errors import UserError

SQUARE = "4 1 0\n0 0 0\n2 0 0\n2 2 0\n0 2 0\n4 0 1 2 3\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for half in ("train", "test"):
        for name in ("flat", "thick"):
            place = tmp_path / half / name
            place.mkdir(parents=True)
            np.save(place / "a.npy", random.standard_normal((40, 3)))
        (tmp_path / half / "flat" / "b.off").write_text(f"OFF\n{SQUARE}")
    return tmp_path


def test_solids_are_the_same_every_time_and_of_radius_one() -> None:
    first, again = PointFolder(points=32).load(), PointFolder(points=32).load()
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(
        first.train.inputs, PointFolder(points=32, points_seed=1).load().train.inputs
    )
    assert first.train.inputs.shape == (480, 32, 3)
    assert first.test.targets.bincount().tolist() == [10] * 12
    radius = first.train.inputs.norm(dim=-1).amax(1)
    assert torch.allclose(radius, torch.ones(480))
    assert first.train.inputs.mean(1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("cube", 24.0),
        ("tetrahedron", 3**0.5 * 3),  # four triangles of side sqrt(3)
        ("octahedron", 2 * 3**0.5 * 2),  # eight of side sqrt(2)
        ("sphere", 4 * np.pi),
        ("torus", 4 * np.pi**2 * 0.35),
        ("capsule", 4 * np.pi * 0.25 + 2 * np.pi * 0.5),
    ],
)
def test_surfaces_of_solids(name: str, area: float) -> None:
    a, b, c = solid(name).swapaxes(0, 1)
    found = np.linalg.norm(np.cross(b - a, c - a), axis=-1).sum() / 2
    assert found == pytest.approx(area, rel=0.03)


def test_points_are_uniform_by_area() -> None:
    triangles = np.array(
        [[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[5, 0, 0], [8, 0, 0], [5, 1, 0]]], float
    )
    points = on_surface(triangles, 8000, np.random.default_rng(0))
    large = points[:, 0] >= 5
    assert large.mean() == pytest.approx(0.75, abs=0.02)
    assert np.allclose(points[large].mean(0), [6, 1 / 3, 0], atol=0.05)
    assert (points[~large, :2].sum(1) <= 1 + 1e-9).all()


def test_a_folder(folder: Path) -> None:
    data = PointFolder(str(folder), points=64).load()
    assert data.classes == ["flat", "thick"]
    assert data.train.inputs.shape == (3, 64, 3)
    assert data.train.targets.tolist() == [0, 0, 1]
    assert data.gives == {"point_dims": 3, "num_classes": 2}
    # 40 points, some of them twice.
    assert len({tuple(point) for point in data.train.inputs[0].tolist()}) == 40
    assert data.train.inputs[1, :, 2].abs().max() < 1e-6, "of the square"
    few = PointFolder(str(folder), points=16).load().train.inputs[2]
    assert len({tuple(point) for point in few.tolist()}) == 16


def test_folders_as_of_images(folder: Path) -> None:
    before = PointFolder(str(folder)).load()
    (folder / "test").rename(folder / "val")
    deeper = folder / "train" / "thick" / "more"
    deeper.mkdir()
    np.save(deeper / "b.npy", np.eye(3))
    (folder / "train" / "thick" / "README.txt").touch()
    after = PointFolder(str(folder)).load()
    assert torch.equal(after.train.inputs[:3], before.train.inputs)
    assert after.train.targets.tolist() == [0, 0, 1, 1]
    assert after.test.targets.tolist() == [0, 0, 1]


def test_another_file_changes_no_cloud_but_the_fingerprint(folder: Path) -> None:
    before = PointFolder(str(folder), points=16)
    first, name = before.load().train.inputs[1], before.fingerprint()
    np.save(folder / "train" / "flat" / "0.npy", np.eye(3))
    after = PointFolder(str(folder), points=16)
    assert torch.equal(after.load().train.inputs[2], first)
    assert after.fingerprint() != name
    assert PointFolder(str(folder), points=17).fingerprint() != after.fingerprint()


@pytest.mark.parametrize("first", ["OFF\n", "OFF", "OFF ", "# made by hand\nOFF\n\n"])
def test_forms_of_off_files(tmp_path: Path, first: str) -> None:
    path = tmp_path / "square.off"
    path.write_text(first + SQUARE)
    assert read_off(path).tolist() == [
        [[0, 0, 0], [2, 0, 0], [2, 2, 0]], [[0, 0, 0], [2, 2, 0], [0, 2, 0]],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "does not begin with OFF"),
        ("OFF\n", "no OFF file"),
        ("OFF\n3 1\n0 0 0\n1 0 0\n", "cut short"),
        ("OFF\n0 0 0\n", "it has no faces"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n", "outside of 0 to 2"),
        ("OFF\n3 1 0\n0 0 x\n1 0 0\n0 1 0\n3 0 1 2\n", "no OFF file"),
        ("OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n", "no area"),
    ],
)
def test_what_is_no_mesh_is_one_line(folder: Path, content: str, says: str) -> None:
    path = folder / "train" / "flat" / "b.off"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        PointFolder(str(folder)).load()
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("cloud", "says"),
    [
        (np.zeros((4, 2)), r"shape \(points, 3\), got \(4, 2\)"),
        (np.zeros((0, 3)), r"got \(0, 3\)"),
        (np.full((2, 3), np.inf), "not finite"),
        (np.array([["a"] * 3]), "real numbers"),
        (np.array([{}]), "no .npy file of plain numbers"),
    ],
)
def test_what_is_no_cloud_is_one_line(folder: Path, cloud: np.ndarray, says: str) -> None:
    np.save(folder / "test" / "thick" / "a.npy", cloud)
    with pytest.raises(UserError, match=says):
        PointFolder(str(folder)).load()


def test_folders_that_do_not_fit_are_one_line(folder: Path) -> None:
    (folder / "train" / "third").mkdir()
    with pytest.raises(UserError, match=r"third has no file that ends in \.npy \.off"):
        PointFolder(str(folder)).check()
    np.save(folder / "train" / "third" / "a.npy", np.eye(3))
    with pytest.raises(UserError, match="only to train on third"):
        PointFolder(str(folder)).check()
    with pytest.raises(UserError, match="nowhere does not exist"):
        PointFolder(str(folder / "nowhere")).check()
