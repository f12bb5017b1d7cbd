"""Files of the MNIST family in their published format, IDX."""

import struct
from pathlib import Path

import numpy as np

IDX = {
    "train-images-idx3-ubyte": (12, 28, 28),
    "train-labels-idx1-ubyte": (12,),
    "t10k-images-idx3-ubyte": (5, 28, 28),
    "t10k-labels-idx1-ubyte": (5,),
}


def idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def write_idx(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """The four files of the MNIST family; their values by name."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    values = {
        name: draw.integers(256 if "images" in name else 10, size=shape, dtype=np.uint8)
        for name, shape in IDX.items()
    }
    for name, array in values.items():
        (folder / name).write_bytes(idx(array))
    return values
