"""The reference's recorded trajectories, replayed through our own network, method and optimizer."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from opt_runner import OPT
from opt_runner.networks import PlainCNN
from opt_runner.rotations import neurons
from opt_runner.training.loss import smoothed_cross_entropy

GOLDEN = Path(
    os.environ.get("OPT_GOLDEN_DIR") or Path(__file__).resolve().parents[3] / "shared" / "golden"
)
# Tolerances of fit_loss (relative, every step) and of the final effective weights (absolute): the
# reference's own rounding is larger in its Gram-Schmidt recurrence and in its far start of `or`.
TOLERANCE = {"gs": 1e-3, "or": 1e-2}
OPTIONS = {"or": {"start": "normal"}}
# our layer -> its name in the recording
LAYERS = {"features.0": "conv1_0", "features.4": "conv2_0", "fc": "fc6"}


def recordings() -> list[Path]:
    return sorted(GOLDEN.glob("*.npz"))


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
        for group in opt.rotations:
            for i, name in enumerate(group.names):
                recorded = LAYERS[name.removesuffix(".weight")]
                group.R[i] = torch.from_numpy(golden[f"init/{recorded}/rotation"])
                if group.rows is not None:
                    group.rows[i] = torch.from_numpy(golden[f"index/{recorded}"]).long()
    return opt


def effective(opt: OPT) -> dict[str, np.ndarray]:
    return {LAYERS[name]: V.numpy() for name, V in opt.neurons().items()}


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_replays_the_reference(path: Path) -> None:
    golden, method = np.load(path), path.stem
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
    opt = build(golden, meta, method, **options)
    optimizer = opt.optimizer(meta["lr"], meta["momentum"], meta["weight_decay"])

    for name, V in effective(opt).items():
        recorded = golden[f"effective_init/{name}"].reshape(V.shape)
        np.testing.assert_allclose(V, recorded, rtol=0, atol=tolerance * np.abs(recorded).max())
    for step in range(meta["steps"]):
        images = torch.from_numpy(golden["images"][step]).permute(0, 3, 1, 2)
        labels = torch.from_numpy(golden["labels"][step])
        logits = opt((images.float() - 127.5) / 128)
        fit = smoothed_cross_entropy(logits, labels, meta["label_smoothing"], meta["softmax_floor"])
        penalty = opt.penalty()
        assert fit.item() == pytest.approx(golden["fit_loss"][step], rel=tolerance)
        if method == "or":
            recorded = meta["orth_scale"] * golden["orthogonality_loss"][step]
            assert penalty.item() == pytest.approx(recorded, rel=1e-4)
        optimizer.zero_grad()
        (fit + penalty).backward()
        optimizer.step()
    for name, V in effective(opt).items():
        recorded = golden[f"effective_final/{name}"].reshape(V.shape)
        np.testing.assert_allclose(V, recorded, rtol=0, atol=tolerance)


def test_every_variant_is_recorded() -> None:
    if not recordings():
        pytest.skip(f"no golden trajectories in {GOLDEN.name}/: set OPT_GOLDEN_DIR")
    assert {path.stem for path in recordings()} == {"gs", "hr", "ls", "cayley", "ogd", "or", "sopt"}


def test_axis_order_is_the_references() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)  # (n, c_in, kh, kw)
    W = neurons(weight)
    kh, kw, c, n = 1, 0, 2, 1
    assert W[(kh * 2 + kw) * 3 + c, n] == weight[n, c, kh, kw]
