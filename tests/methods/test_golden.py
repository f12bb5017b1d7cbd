"""The reference's recorded training, replayed through our own network, method and optimizer.

`pytest -rP tests/methods/test_golden.py` prints the errors; docs/fidelity.md explains them.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from opt_runner import OPT
from opt_runner.datasets.labelled import smoothed_cross_entropy
from opt_runner.layers import Layer
from opt_runner.networks import PlainCNN
from tests.gpu import Gpu

GOLDEN = Path(os.environ.get("OPT_GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
VARIANTS = ("gs", "hr", "ls", "cayley", "ogd", "or", "sopt")
# Of losses relative to each, of weights to the layer's largest; 1e-4 for the other variants. The
# reference's Gram-Schmidt loses digits; ogd's L2 is a tenth: its absence would pass at 1e-4.
TOLERANCE = {"gs": 1e-3, "ogd": 1e-5}
OPTIONS = {"or": {"start": "normal"}}
# our layer -> its name in the recording
LAYERS = {"features.0": "conv1_0", "features.4": "conv2_0", "fc": "fc6"}


def recording(method: str):
    path = GOLDEN / f"{method}.npz"
    if not path.is_file():
        pytest.fail(
            f"no recording {path}: restore tests/golden/, or let OPT_GOLDEN_DIR name a folder that "
            "has it",
            pytrace=False,
        )
    return np.load(path)


def build(golden, meta, method: str, **options) -> OPT:
    network = PlainCNN(
        in_channels=3,
        image_size=golden["images"].shape[2:4],
        num_classes=meta["classes"],
        widths=meta["widths"],
        convs=1,
        fc_width=meta["fc_width"],
        bn_momentum=1 - meta["bn_decay"],
        bn_eps=meta["bn_eps"],
    )
    # The recording may rotate other shares of rows than a quarter: sopt takes the share it finds.
    if method == "sopt":
        d = golden["init/fc6/fix"].shape[0]
        options["share"] = len(golden["index/fc6"]) / d
    opt = OPT(network, method, **OPTIONS.get(method, {}), **options)
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(golden["init/score/filter"][0, 0].T))
        for layer, recorded in LAYERS.items():
            weight = network.get_submodule(layer).weight
            W = torch.from_numpy(golden[f"init/{recorded}/fix"])
            n, c, kh, kw = weight.shape
            weight.copy_(W.reshape(kh, kw, c, n).permute(3, 2, 0, 1))
        for stack in opt.stacks:
            for i, layer in enumerate(stack.layers):
                recorded = LAYERS[layer.name]
                stack.trained["R"][i] = torch.from_numpy(golden[f"init/{recorded}/rotation"])
                if "S" in stack.tensors:
                    S = torch.from_numpy(golden[f"index/{recorded}"]).long()
                    stack.tensors["S"][i] = S
    return opt


def trained_weights(opt: OPT) -> dict[str, np.ndarray]:
    """V (d, n) of the rotated layers and the classifier's own weight, by recorded name."""
    weights = {LAYERS[name]: V.cpu().numpy() for name, V in opt.neurons().items()}
    classifier = opt.network.classifier.weight.detach().cpu().T
    return weights | {"score": classifier.clone().numpy()}


def recorded_weights(golden, when: str) -> dict[str, np.ndarray]:
    names = [*LAYERS.values(), "score"]
    weights = {name: golden[f"effective_{when}/{name}"] for name in names}
    return {name: V.reshape(-1, V.shape[-1]) for name, V in weights.items()}


def assert_same_weights(ours, recorded, tolerance: float) -> None:
    assert ours.keys() == recorded.keys()
    for name, V in recorded.items():
        atol = tolerance * np.abs(V).max()
        np.testing.assert_allclose(ours[name], V, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", VARIANTS)
def test_replays_the_reference(method: str, dtype: torch.dtype) -> None:
    replay(method, dtype, torch.device("cpu"))


@pytest.mark.parametrize("method", VARIANTS)
def test_replays_the_reference_on_a_gpu(method: str, gpu: Gpu) -> None:
    replay(method, torch.float32, gpu.device)


def replay(method: str, dtype: torch.dtype, device: torch.device) -> None:
    golden = recording(method)
    meta = json.loads(str(golden["meta"]))
    tolerance = TOLERANCE.get(method, 1e-4)
    options = {}
    if method == "ogd":
        options = {
            "form": "reference",
            "rotation_lr": meta["rotation_lr"],
            "plain_weight_decay_scale": meta["reg_scale"],
        }
    if method == "or":
        options = {"scale": meta["orth_scale"]}
    opt = build(golden, meta, method, **options).to(device, dtype)
    optimizer = opt.optimizer(meta["lr"], meta["momentum"], meta["weight_decay"])
    assert_same_weights(trained_weights(opt), recorded_weights(golden, "init"), tolerance)

    fits, penalties = [], []
    for step in range(meta["steps"]):
        images = torch.from_numpy(golden["images"][step]).permute(0, 3, 1, 2).to(device)
        labels = torch.from_numpy(golden["labels"][step]).to(device)
        logits = opt((images.to(dtype) - 127.5) / 128)
        fit = smoothed_cross_entropy(logits, labels, meta["label_smoothing"], meta["softmax_floor"])
        penalty = opt.penalty()
        fits.append(fit.item())
        penalties.append(penalty.item())
        optimizer.zero_grad()
        (fit + penalty).backward()
        optimizer.step()
    final, recorded = trained_weights(opt), recorded_weights(golden, "final")

    fit_error = np.abs(np.array(fits) / golden["fit_loss"] - 1).max()
    weight_error = max(np.abs(final[name] - V).max() for name, V in recorded.items())
    print(
        f"{method} {dtype}: fit_loss {fit_error:.1e} relative, weights {weight_error:.1e} absolute"
    )
    np.testing.assert_allclose(fits, golden["fit_loss"], rtol=tolerance)
    if method == "or":
        recorded_penalties = meta["orth_scale"] * golden["orthogonality_loss"]
        np.testing.assert_allclose(penalties, recorded_penalties, rtol=tolerance)
    assert_same_weights(final, recorded, tolerance)


def test_axis_order_is_the_references() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)  # (n, c_in, kh, kw)
    W = Layer("conv", "conv.weight", d=12, n=2).matrix(weight)
    kh, kw, c, n = 1, 0, 2, 1
    assert W[(kh * 2 + kw) * 3 + c, n] == weight[n, c, kh, kw]
