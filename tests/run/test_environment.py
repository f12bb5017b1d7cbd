"""How many processes a run has is read from a full set of variables, or there is one."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opt_runner.config.schema import Hardware
from opt_runner.errors import UserError
from opt_runner.run.processes import joined
from tests.config.test_config import composed

TORCHRUN = {
    "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "stray", [{"LOCAL_RANK": "0"}, {"RANK": "1", "WORLD_SIZE": "4"},
              {name: "2" for name in TORCHRUN if name != "TORCHELASTIC_RUN_ID"}],
    ids=len,
)  # fmt: skip
def test_stray_variables_are_a_line_and_not_waited_for(
    stray: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    with joined(composed("hardware=cpu").hardware) as processes:
        assert (processes.count, processes.first) == (1, True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("in the environment: ignored, as torchrun sets more than that; this run "
                         "trains in one process")  # fmt: skip


@pytest.fixture(scope="module")
def on_cpu() -> Hardware:
    return composed("hardware=cpu").hardware


@given(
    name=st.sampled_from(["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
    value=st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1
    ).filter(lambda text: not text.isdecimal()),
)
@settings(
    max_examples=30, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_torchruns_variables_are_numbers(
    on_cpu: Hardware, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for known, given_ in {**TORCHRUN, name: value}.items():
        monkeypatch.setenv(known, given_)
    with pytest.raises(UserError, match=f"{name}=.* must be a number from"):
        joined(on_cpu).__enter__()


def test_slurms_variables_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "two")
    hardware = composed("hardware=cpu", "hardware.processes=slurm").hardware
    with pytest.raises(UserError, match="SLURM_NTASKS='two' in the environment"):
        joined(hardware).__enter__()
