"""Matrix routines that several methods share."""

import pytest
import torch

from opt_runner.methods.kernels.linalg import svd


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_svd_of_a_diverged_matrix_is_an_error_and_the_library_writes_nothing(
    bad: float, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    R = torch.eye(40, dtype=dtype)
    R[3, 4] = bad
    with pytest.raises(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        svd(R)
    assert capfd.readouterr() == ("", "")
