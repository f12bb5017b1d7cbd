"""FSDP2 on two processes: equal to one, in bfloat16, resumed from DCP; the rest is refused."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests import commands

METHODS = ["cayley", "ogd", "frame", "landing", "pogo", "sopt", "poet", "oft"]
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch has no gloo"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what each of the things that two processes tried came to."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(__file__).with_name("sharded.py")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    processes = [
        commands.start(
            [program, rank, port, folder], cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}
        )
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=200) for process in processes]
    assert not any(process.returncode for process in processes), ended[0][1] + ended[1][1]
    first, second = (dict(map(json.loads, _ours(out))) for out, _ in ended)
    assert first == second
    return first


def _ours(output: str) -> list[str]:
    """Return the lines that are not of Gloo, which reports its connections in some releases."""
    return [line for line in output.splitlines() if not line.startswith("[Gloo]")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", ["equal", "recomputed"])
def test_as_one_process(what: str, method: str, found: dict[str, Any]) -> None:
    """Also where activations are computed again, see `Process.recomputed`."""
    assert found[f"{what} {method}"] < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_merged_with_a_head_under_tensor_parallelism(method: str, found: dict[str, Any]) -> None:
    assert found[f"merged {method}"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_in_bfloat16(method: str, found: dict[str, Any]) -> None:
    assert found[f"half {method}"] < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_resumed_from_a_distributed_checkpoint(method: str, found: dict[str, Any]) -> None:
    assert found[f"resumed {method}"] == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("blocks", "is sharded apart from OPT, and Q(R) needs all of it: use fully_shard(opt)"),
        ("tensor_parallel", "2.weight is sharded apart from OPT"),
        ("fsdp1", "has been taken by another package, as FSDP1"),
        ("before", "sharded already, by FSDP, tensor parallelism or DeepSpeed's ZeRO-3"),
        ("early_optimizer", "they were replaced after it was made, as fully_shard"),
    ],
)
def test_what_is_refused(name: str, says: str, found: dict[str, Any]) -> None:
    assert says in found[name]
