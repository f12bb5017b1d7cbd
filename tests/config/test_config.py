"""The schema: every mistake is one clear line; the signature is of what changes the result."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from opt_runner.config import components
from opt_runner.config.compose import (
    Composer,
    conf_dir,
    config_arguments,
    from_arguments,
    read,
    text_keys,
)
from opt_runner.config.compose import compose as compose_checked
from opt_runner.config.overrides import with_quoted_texts
from opt_runner.config.schema import Config
from opt_runner.config.signature import signature
from opt_runner.datasets import ImageFolder
from opt_runner.errors import UserError


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return read(compose("config", list(overrides)))


CHOICES = {
    group.name: sorted(path.stem for path in group.glob("*.yaml"))
    for group in conf_dir().iterdir()
    if group.is_dir() and group.name not in ("experiment", "hydra")
}


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in CHOICES for choice in CHOICES[group]]
)
def test_every_choice_of_every_group_is_valid(group: str, choice: str) -> None:
    extra = {
        "image_folder": ["dataset.root=somewhere"],
        "torchvision": ["model.arch=torchvision"],
        "timm": ["model.arch=timm"],
    }
    checked = composed(f"{group}={choice}", *extra.get(choice, []))
    if group in ("method", "model", "dataset"):
        assert getattr(checked, group).name == choice


def test_defaults_are_the_references() -> None:
    checked = composed("dataset=cifar100", "method=ogd")
    assert (checked.optimizer.lr, checked.optimizer.momentum) == (0.1, 0.9)
    assert (checked.optimizer.weight_decay, checked.batch_size) == (5e-4, 128)
    steps = checked.budget.in_steps(steps_per_epoch=50_000 // 128)
    assert steps == pytest.approx(75_000, rel=1e-4)
    milestones = [round(share * 75_000) for share in checked.schedule.milestones]
    assert milestones == [30_000, 50_000, 65_000]
    rounds = [round(share * 400) for share in composed("method=sopt").schedule.milestones]
    assert rounds == [160, 260, 340]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["optimizer.lr=-1"], "optimizer.lr: must be greater than 0, got -1"),
        (["optimizer.lr=fast"], "optimizer.lr: must be a valid number"),
        (["optimizer.momentum=1"], "optimizer.momentum: must be less than 1, got 1"),
        (["optimizer.nesterov=true", "optimizer.momentum=0"], "needs optimizer.momentum above 0"),
        (["budget.steps=0"], "budget.steps: must be greater than 0, got 0"),
        (["budget.epochs=null"], "budget.steps or budget.epochs must be given"),
        (["batch_size=1.5"], "batch_size: must be a valid integer"),
        (["seed=-1"], "seed: must be greater than or equal to 0"),
        (["schedule.milestones=[0.5,0.2]"], "schedule.milestones must ascend"),
        (["schedule.milestones=[2]"], "schedule.milestones.0: must be less than 1, got 2"),
        (["hardware.device=tpu"], "hardware.device"),
        (["hardware.precision=float8"], "'float32', 'bfloat16' or 'float64', got 'float8'"),
        (["method=sopt", "method.share=0"], "method.share: must be greater than 0, got 0"),
        (["method=sopt", "method.inner=ogd"], "'gs', 'hr', 'ls' or 'cayley', got 'ogd'"),
        (["+method.sacle=1"], "unknown key 'method.sacle'"),
        (["method=or", "+method.sclae=1"], "did you mean 'method.scale'? (method takes"),
        (["model.widths=[64,0]"], "model.widths.1: must be greater than 0, got 0"),
        (["model.widths=[0]"], "model.widths.0: must be greater than 0, got 0"),
        (["model.widths=[true,true]"], "model.widths must be a number, got true"),
        (["model.widths=[]"], "model.widths: must have at least 1 item, got []"),
        (["method._target_=nowhere.Nothing"], "method._target_: cannot import 'nowhere.Nothing'"),
        (["model._target_=math.pi"], "is not a class or function"),
        (["experiment_name=../up"], "experiment_name"),
        (["+colour=red"], "unknown key 'colour'"),
        (["layers.max_d=0"], "layers.max_d: must be greater than 0, got 0"),
        (["layers.include=fc"], "layers.include: must be a valid tuple, got 'fc'"),
        (["layers.rest=[{method: sop}]"], "layers.rest.0.method: no method 'sop'; did you mean"),
        (
            ["layers.rest=[{method: sopt, options: {shar: 1}}]"],
            "did you mean 'layers.rest.0.share'",
        ),
        (["layers.weights=old"], "'given', 'gaussian' or 'pretrained', got 'old'"),
        (["dataset=image_folder"], "dataset.root"),
        (["dataset.validation=-0.1"], "dataset.validation: must be greater than or equal to 0"),
        (["dataset.validation=0.6"], "dataset.validation: must be less than or equal to 0.5"),
        (["dataset.share=0"], "dataset.share: must be greater than 0"),
        (["dataset.label_noise=1"], "dataset.label_noise: must be less than 1"),
        (["evaluate.test=first"], "'every', 'last' or 'never', got 'first'"),
        (["dataset.validation_seed=-1"], "dataset.validation_seed: must be greater than or equal"),
        (["+dataset.validatoin=0.1"], "did you mean 'dataset.validation'?"),
        (["method=ogd", "+method.rotatoin=0.1"], "did you mean 'method.rotation_lr'?"),
        (["method=cayley", "+method.rotatoin=0.1"], "unknown key 'method.rotatoin' (method takes"),
    ],
)
def test_mistakes(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        composed(*overrides)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_two_mistakes_are_two_lines() -> None:
    with pytest.raises(UserError) as caught:
        composed("optimizer.lr=-1", "batch_size=0")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "override",
    [
        "output_dir=elsewhere",
        "experiment_name=other",
        "tracking=none",
        "hardware.threads=1",
        "progress=plain",
        "rerun=true",
        "checkpoint.every_seconds=1",
        "checkpoint.every_steps=7",
        "when_locked=leave",
        "hardware.reuse_memory=false",
        "hardware.images=streamed",
        "augment.resized_crop=null",
    ],
)
def test_what_cannot_change_the_result_keeps_the_signature(override: str) -> None:
    signatures = {signature(c, "d", "cpu") for c in (composed(), composed(override))}
    assert len(signatures) == 1


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "method=gs",
        "method.start=normal",
        "model=cnn9",
        "model.widths=[8,8,8]",
        "budget.steps=7",
        "batch_size=64",
        "optimizer.lr=0.05",
        "schedule.factor=0.5",
        "loss.label_smoothing=0",
        "augment.enabled=false",
        "augment.resized_crop=0.08",
        "hardware.precision=bfloat16",
        "hardware.precision=float64",
        "evaluate.every=5",
        "dataset.validation=0.1",
        "dataset.share=0.1",
        "dataset.label_noise=0.2",
        "optimizer.rotation_lr=0.1",
        "evaluate.test=last",
        "layers.max_d=64",
        "layers.rest=[{method: sopt}]",
        "layers.weights=gaussian",
    ],
)
def test_what_changes_the_result_changes_the_signature(override: str) -> None:
    signatures = {signature(c, "d", "cpu") for c in (composed(), composed(override))}
    assert len(signatures) == 2


def test_how_much_is_held_back_and_which_images_are_in_the_signature() -> None:
    names = {
        signature(composed(*one), "d", "cpu")
        for one in (
            [],
            ["dataset.validation=0.1"],
            ["dataset.validation=0.2"],
            ["dataset.validation=0.2", "dataset.validation_seed=1"],
        )
    }
    assert len(names) == 4


def test_defaults_are_not_signed_and_stand_in_config_yaml() -> None:
    """A key that a later release adds leaves the signatures of older runs alone."""
    plain = composed()
    assert plain.content["optimizer"]["rotation_lr"] is None
    assert plain.content["layers"]["max_d"] is None
    assert Config.model_validate(plain.content) == plain
    old = {key: value for key, value in plain.content.items() if key != "layers"}
    old["optimizer"] = {k: v for k, v in old["optimizer"].items() if k != "rotation_lr"}
    assert signature(Config.model_validate(old), "d", "cpu") == signature(plain, "d", "cpu")
    seeded = composed("dataset.validation_seed=3")
    assert signature(seeded, "d", "cpu") == signature(plain, "d", "cpu")
    changed = composed(
        "dataset.validation=0.1", "dataset.validation_seed=3", "dataset.share=0.5",
        "dataset.label_noise=0.1", "optimizer.rotation_lr=1", "evaluate.test=never",
        "layers.rest=[{method: sopt, options: {share: 0.1}, max_d: 9}]", "layers.max_d=64",
    )  # fmt: skip
    assert Config.model_validate(changed.content) == changed
    assert signature(changed, "d", "cpu") != signature(plain, "d", "cpu")


def test_of_a_file_of_weights_the_content_is_in_the_signature(tmp_path: Path) -> None:
    names = set()
    for name, content in {"a.pt": b"1", "b.pt": b"1", "c.safetensors": b"2"}.items():
        (tmp_path / name).write_bytes(content)
        names.add(signature(composed(f"model.weights={tmp_path / name}"), "d", "cpu"))
    assert len(names) == 2
    with pytest.raises(UserError, match=r"gone.pt cannot be read: No such file"):
        signature(composed("model.weights=gone.pt"), "d", "cpu")


def test_numbers_of_a_users_dataset_are_in_the_signature() -> None:
    """Whatever its fingerprint forgets; a text may be a path, and then the content counts."""
    config = composed()

    def name(target: str, **options: Any) -> str:
        content = config.dataset.model_dump(by_alias=True) | options | {"_target_": target}
        dataset = type(config.dataset).model_validate(content)
        return signature(config.model_copy(update={"dataset": dataset}), "d", "cpu")

    assert len({name("mine.Data", count=1), name("mine.Data", count=2), name("mine.Data")}) == 3
    several = [{"columns": [1, 2]}, {"columns": [1, 3]}, {"a": {"b": 1}}, {"a": {"b": True}}]
    assert len({name("mine.Data", **options) for options in several}) == len(several)
    assert name("mine.Data", file="a") == name("mine.Data", file="b")
    assert name("mine.Data", a={"file": "a"}) == name("mine.Data", a={"file": "b"})
    assert name("opt_runner.datasets.Digits", count=1) == name("opt_runner.datasets.Digits")


def test_a_moved_class_of_ours_keeps_the_signature_and_a_users_does_not() -> None:
    ours = composed("method._target_=opt_runner.methods.Cayley")
    moved = composed("method._target_=opt_runner.methods.cayley.Cayley")
    other = composed("method._target_=opt_runner.methods.GramSchmidt")
    names = [signature(config, "d", "cpu") for config in (ours, moved, other)]
    assert names[0] == names[1] != names[2]
    user = "model._target_=torchvision.models.resnet18"
    alias = "model._target_=torchvision.models.resnet.resnet18"
    theirs = {signature(composed(target), "d", "cpu") for target in (user, alias)}
    assert len(theirs) == 2


def test_data_and_device_are_in_the_signature() -> None:
    checked = composed()
    names = {signature(checked, data, on) for data in "ab" for on in ("cpu", "cuda")}
    assert len(names) == 4


def test_directory_holds_no_equals_sign_or_comma() -> None:
    directory = composed("method=or", "seed=3").directory("abc")
    assert directory == Path("outputs/default/digits/cnn6/or/seed3-abc")


def test_texts_may_look_like_numbers() -> None:
    given = from_arguments(
        "experiment_name=2024_11_28", "note=1e3", "model.name=16", "output_dir=true"
    )
    assert given.experiment_name == "2024_11_28"
    assert (given.note, given.model.name, given.output_dir) == ("1e3", "16", "true")
    assert with_quoted_texts(["seed=1", "note=1_0,x", "-m"], text_keys()) == [
        "seed=1", "note='1_0',x", "-m",
    ]  # fmt: skip


def test_paths_may_begin_with_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given = from_arguments(
        "output_dir=~/out", "model.weights=~/net.pt", "dataset=image_folder", "dataset.root=~/a",
        "dataset.cache_dir=~/c",
    )  # fmt: skip
    assert (given.output_dir, given.model.weights) == (f"{tmp_path}/out", tmp_path / "net.pt")
    folder = components.build(given.dataset, "dataset", ImageFolder)
    assert (folder.root, folder.cache_dir) == (tmp_path / "a", tmp_path / "c")
    assert with_quoted_texts(["-m", "dataset.root=~/a,b"], []) == ["-m", "dataset.root='~/a',b"]
    with pytest.raises(UserError, match="the folder ~nobody-here is not known"):
        from_arguments("output_dir=~nobody-here/x")


def test_without_a_home_no_folder_of_that_name_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match=r"output_dir|the folder ~ is not known \(is HOME set\?\)"):
        from_arguments("output_dir=~/out")
    with pytest.raises(UserError, match=r"not known .*, or set dataset\.cache_dir=DIR"):
        ImageFolder("a")


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=0.3", "optimizer={lr:0.2}"],
        ["optimizer={lr:0.2}", "optimizer.lr=0.3"],
        ["optimizer.lr=0.3", "++optimizer.lr=0.2"],
        ["optimizer.lr=0.3", "method=standard"],
        ["seed=1", "seed=2"],
    ],
)
def test_a_run_of_a_sweep_has_the_config_that_it_has_alone(overrides: list[str]) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert Composer("config")(overrides) == compose_checked("config", overrides)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("dataset/mine.yaml", "dataset: {name: mine, _target_: opt_runner.datasets.Digits}"),
        ("experiment/mine.yaml", "method: {name: gs}"),
        ("hardware/mine.yaml", "hardware: {device: cpu}\nbatch_size: 3"),
    ],
)
def test_a_file_of_a_group_without_its_package_is_named(
    path: str, text: str, tmp_path: Path
) -> None:
    group = Path(path).parent.name
    (tmp_path / group).mkdir()
    (tmp_path / path).write_text(text)
    with pytest.raises(UserError, match=rf"{group}\..* must begin with .*# @package _global_"):
        composed(f"hydra.searchpath=['{tmp_path}']", f"{group}=mine")


def test_the_arguments_that_name_configs_are_in_a_run_s_command() -> None:
    sources = [
        {"path": "hydra.conf", "provider": "hydra"}, {"path": str(conf_dir()), "provider": "main"},
        {"path": "b", "provider": "command-line"},
    ]  # fmt: skip
    content = {"runtime": {"config_sources": sources}, "job": {"config_name": "alt"}}
    assert config_arguments(OmegaConf.create(content)) == [
        "--config-dir", "b", "--config-name", "alt",
    ]  # fmt: skip
    sources[1]["path"] = "outputs/a record"
    assert config_arguments(OmegaConf.create(content))[:2] == ["--config-path", "outputs/a record"]
