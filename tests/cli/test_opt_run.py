"""What a person sees: help, one run, sweeps, mistakes."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from PIL import Image

from opt_runner.methods import METHODS
from tests.cli.conftest import COMMAND, SWEEP, TINY, Finished, Run, results
from tests.small import SOME_METHODS

QUIET = [*TINY, "tracking=none"]


def test_help_names_groups_choices_and_examples_without_torch(opt_run: Run) -> None:
    done = opt_run("--help")
    assert done.returncode == 0
    for text in (f"method: {', '.join(sorted(METHODS))}", "hardware: auto, cpu, cuda",
                 "opt-run method=cayley model=cnn9"):  # fmt: skip
        assert text in done.stdout
    modules = "opt_runner.cli.run, hydra_plugins.opt_runner.sweepers"
    probe = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_the_config_of_a_run_and_hydras_own_flags(opt_run: Run, tmp_path: Path) -> None:
    shown = yaml.safe_load(opt_run("--cfg", "job", "method=sopt").stdout)
    assert shown["method"]["inner"] == "gs"
    assert shown["schedule"]["milestones"] == [0.4, 0.65, 0.85]
    assert "| main " in opt_run("--info", "searchpath").stdout
    completion = opt_run("-sc", "install=bash").stdout
    assert "opt-run" in completion
    assert list(tmp_path.iterdir()) == []


def test_every_method_in_one_sweep_with_its_table(opt_run: Run, tmp_path: Path) -> None:
    done = opt_run(*SWEEP, f"method={','.join(SOME_METHODS)}", *QUIET, "budget.steps=200")
    assert done.returncode == 0, done.stderr
    assert {r["method"] for r in results(tmp_path)} == set(SOME_METHODS)
    table = done.stdout[done.stdout.index("test error %") :]
    for method in SOME_METHODS:
        assert f" {method} " in table
    for result in results(tmp_path):
        assert result["status"] == "finished"
        assert result["steps"] == 200
        assert result["test_error"] < 60, "chance is 90"
        assert result["start"]["energy"].keys() == {"features.1", "features.4"}
        if result["method"] in ("gs", "hr", "ls", "cayley", "ogd", "sopt", "frame"):
            assert result["orthogonality_error"] < 1e-5
            for layer, energy in result["start"]["energy"].items():
                assert result["end"]["energy"][layer] == pytest.approx(energy, rel=1e-4)
            for name in ("energy_excess", "half_space_excess", "largest_cosine"):
                for layer, value in result["start"][name].items():
                    assert result["end"][name][layer] == pytest.approx(value, abs=1e-2)


def test_the_record_of_a_run(finished: Finished, tmp_path: Path) -> None:
    stdout = finished("method=gs", *QUIET)
    (directory,) = tmp_path.glob("outputs/default/digits/mlp/gs/seed0-*")
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "result.json",
        "run.log",
        "command.txt",
        "weights.safetensors",
        "lock",
    }
    assert str(directory.relative_to(tmp_path)) in stdout
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert config["method"]["name"] == "gs"
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(13))
    assert {"train_loss", "lr", "samples_per_second", "epoch"} <= rows[-1].keys()
    assert {"test_error", "energy", "orthogonality_error"} <= rows[-1].keys()
    result = json.loads((directory / "result.json").read_text())
    assert result["test_error"] == rows[-1]["test_error"]
    assert result["train_loss"] == rows[-1]["train_loss"]
    for name in ("energy", "energy_excess", "half_space_excess", "largest_cosine"):
        assert result["start"][name] == rows[0][name]
        assert result["end"][name] == rows[-1][name]
        assert rows[-1][name].keys() == {"features.1", "features.4"}
    assert rows[-1]["energy_excess"]["features.1"].keys() == {"0", "1", "2"}
    assert directory.name.endswith(result["signature"])
    assert result["effective_parameters"] == 64 * 16 + 16 * 16 + 16 * 10 + 4 * 16
    assert result["trainable_parameters"] == 64 * 64 + 16 * 16 + 16 * 10 + 4 * 16


def test_the_same_command_again_skips_and_rerun_keeps_the_old_record(
    opt_run: Run, finished: Finished, tmp_path: Path
) -> None:
    finished("method=gs", *QUIET)
    (first,) = tmp_path.glob("outputs/**/result.json")
    written = first.stat().st_mtime_ns
    again = opt_run("method=gs", *QUIET)
    assert "finished before, skipped" in again.stdout
    assert again.returncode == 0
    assert first.stat().st_mtime_ns == written
    fresh = opt_run("method=gs", *QUIET, "rerun=true")
    assert "the old record is kept in" in fresh.stdout
    kept, new = sorted(
        tmp_path.glob("outputs/**/result.json"), key=lambda p: ".old-1" not in str(p)
    )
    assert ".old-1" in str(kept)
    old, rerun = json.loads(kept.read_text()), json.loads(new.read_text())
    assert old["train_loss"] == rerun["train_loss"]
    command = (new.parent / "command.txt").read_text()
    assert "method=gs" in command
    assert "rerun" not in command  # the command of the record would train it again


def test_same_seed_same_result_to_the_bit(
    opt_run: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    arguments = ["method=sopt", "method.round_steps=5", *QUIET]
    really_started = [COMMAND, *arguments, "experiment_name=one"]  # so not only in name two
    subprocess.run(really_started, cwd=tmp_path, env=environment, check=True)
    opt_run(*arguments, "experiment_name=two")
    opt_run(*arguments, "experiment_name=three", "seed=1")
    one, two, three = (
        [
            {
                k: v
                for k, v in json.loads(line).items()
                if k not in ("seconds", "samples_per_second")
            }
            for line in next(tmp_path.glob(f"outputs/{name}/**/metrics.jsonl"))
            .read_text()
            .splitlines()
        ]
        for name in ("one", "two", "three")
    )
    assert one == two
    assert one != three


@pytest.mark.slow
def test_duplicate_runs_run_once(finished: Finished, tmp_path: Path) -> None:
    stdout = finished(*SWEEP, "method=gs,gs,hr", *QUIET)
    assert "1 of 3 runs are asked for twice and run once" in stdout
    assert len(results(tmp_path)) == 2


def test_a_failing_run_is_named_and_the_others_run(opt_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            from opt_runner.methods import Cayley, method_options

            @method_options
            class Broken(Cayley):
                def penalty(self, layer, W, V, step, R):
                    raise ZeroDivisionError("a bug of mine")
            """
        )
    )
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/broken.yaml").write_text("name: broken\n_target_: mine.Broken\n")
    arguments = ["--config-dir", "conf", *SWEEP, "method=gs,broken,hr", *QUIET]
    done = opt_run(*arguments, PYTHONPATH=".")
    assert done.returncode == 1
    assert "broken mlp digits seed 0: failed: ZeroDivisionError: a bug of mine" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    status = {r["method"]: r["status"] for r in results(tmp_path)}
    assert status == {"gs": "finished", "broken": "failed", "hr": "finished"}
    (log,) = tmp_path.glob("outputs/**/broken/*/run.log")
    assert "Traceback" in log.read_text()
    again = opt_run(*arguments, PYTHONPATH=".")
    assert again.stdout.count("finished before, skipped") == 2, "a failed run runs again"


def test_a_diverging_run_names_its_step(opt_run: Run, tmp_path: Path) -> None:
    done = opt_run(*SWEEP, "method=standard,cayley", "optimizer.lr=1e30", "log.every=6", *QUIET)
    assert done.returncode == 1
    diverged = [r for r in results(tmp_path) if r["status"] == "diverged"]
    assert diverged
    for result in diverged:
        assert result["error"].startswith("loss is not finite at step ")
        assert result["error"] in done.stdout


def test_a_decomposition_of_nan_is_divergence(opt_run: Run, tmp_path: Path) -> None:
    """LAPACK refuses NaN before the next look at the loss."""
    done = opt_run("method=ls", "optimizer.lr=1e30", "log.every=12", *QUIET)
    assert done.returncode == 1
    (result,) = results(tmp_path)
    assert result["status"] == "diverged"
    assert "step" in result["error"]


def test_a_single_run_that_fails_exits_with_1(opt_run: Run) -> None:
    done = opt_run("method=standard", "optimizer.lr=1e30", *QUIET)
    assert done.returncode == 1
    assert "diverged, loss is not finite at step" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["method=caylee"], "method=caylee: no such choice; did you mean 'cayley'?"),
        (["mehtod=cayley"], "unknown key 'mehtod'; did you mean 'method'?"),
        (["optimizer.lrr=1"], "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        (["optimizer.lr=-0.1"], "optimizer.lr: must be greater than 0, got -0.1"),
        (["-m", "optimizer.lr=0.1,-1"], "got -1 [in the run optimizer.lr=-1]"),
        (["-m", "method=gs,hs"], "method=hs: no such choice"),
        (
            ["-m", "method=gs,standard", "method.start=normal"],
            "method.start: not every run of the sweep has this key",
        ),
        (
            ["batch_size=2000", "tracking=none"],
            "batch size 2000 does not suit 1442 training samples",
        ),
        (["hardware=cuda", "hardware.device=cuda:99"], "hardware.device=cuda:99 does not exist"),
        (["dataset=image_folder", "dataset.root=none"], "none"),
        (["dataset=image_folder"], "dataset.root"),
        (["model.widths=[4,4,4,4]"], "at least 16 x 16"),
        (["optimizer.lr"], "missing EQUAL"),
        (["hydra.run.dir=here"], "hydra.run.dir=here has no effect: set output_dir=DIR"),
        (["hydra/launcher=slurm"], "hydra/launcher=slurm has no effect on a single run: add -m"),
        (["hydra/sweeper=fair"], "hydra/sweeper=fair has no effect on a single run"),
        (["-m", f"experiment_name={'a' * 250}"], "experiment_name: "),
        (["experiment=digits", "method=gs,hr", "dataset=no"], "dataset=no: no such choice"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_writes_nothing(
    opt_run: Run, tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = opt_run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("opt-run: ")
    assert list(tmp_path.glob("outputs/**/*.*")) == []


def test_hydra_full_error_still_shows_the_traceback(opt_run: Run) -> None:
    done = opt_run("optimizer.lr=-1", HYDRA_FULL_ERROR="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_network_and_a_dataset_of_ones_own(opt_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn
            from opt_runner.datasets import Images, Samples

            def net(num_classes: int, width: int = 8) -> nn.Module:
                return nn.Sequential(nn.Flatten(), nn.Linear(75, width), nn.ReLU(),
                                     nn.Linear(width, num_classes))

            class Noise:
                def __init__(self, count: int = 64) -> None:
                    self.count = count
                def check(self) -> None: ...
                def fingerprint(self) -> str:
                    return f"noise-{self.count}"
                def load(self) -> Images:
                    images = torch.randint(256, (self.count, 3, 5, 5), dtype=torch.uint8)
                    labels = torch.arange(self.count) % 4
                    both = Samples(images, labels)
                    return Images(both, both, list("abcd"))
            """
        )
    )
    for group, text in {
        "model": "name: net\n_target_: mine.net\nwidth: 9\n",
        "dataset": "# @package _global_\ndataset: {name: noise, _target_: mine.Noise, count: 32}\n"
        "augment: {pad: 1}\nbatch_size: 16\n",
    }.items():
        folder = tmp_path / "conf" / group
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(text)
    done = opt_run(
        "--config-dir", "conf", "model=mine", "dataset=mine", "budget.steps=3", "tracking=none",
        PYTHONPATH=".",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path)
    assert (result["model"], result["dataset"], result["steps"]) == ("net", "noise", 3)


def test_a_network_that_does_not_fit_the_images(opt_run: Run, tmp_path: Path) -> None:
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/wide.yaml").write_text(
        "name: wide\n_target_: torchvision.models.resnet18\nnum_classes: 10\n"
    )
    done = opt_run("--config-dir", "conf", "model=wide", "tracking=none")
    assert done.returncode == 2
    assert "model: fails on images of shape (1, 8, 8)" in done.stderr


def test_no_progress_bar_but_plain_lines_where_there_is_no_terminal(finished: Finished) -> None:
    stdout = finished(*SWEEP, "method=gs,gs,hr", *QUIET)
    assert "\x1b" not in stdout
    assert "sweep: 2 of 2 runs done" in stdout
    assert "hr mlp digits seed 0: finished, test error" in stdout


def image_folder(root: Path) -> Path:
    for half, count in (("train", 4), ("test", 2)):
        for label, shade in (("dark", 40), ("light", 220)):
            (root / half / label).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (8, 8), (shade, shade + i, i))
                image.save(root / half / label / f"{i}.png")
    return root


@pytest.mark.slow
def test_bad_data_fails_its_run_and_is_named(opt_run: Run, tmp_path: Path) -> None:
    image_folder(tmp_path / "good")
    broken = image_folder(tmp_path / "bad") / "train/dark/1.png"
    broken.write_bytes(broken.read_bytes()[:50])
    folder = ["dataset=image_folder", "batch_size=4", *QUIET]
    done = opt_run(*SWEEP, "dataset.root=bad,good", *folder)
    assert done.returncode == 1, done.stderr
    assert {r["status"] for r in results(tmp_path)} == {"failed", "finished"}
    assert "train/dark/1.png" in next(r["error"] for r in results(tmp_path) if r["error"])
    assert "Traceback" not in done.stdout + done.stderr
    assert "0 of 1: 1 failed" in done.stdout, "failed before its first step, and in a table"
    alone = opt_run("dataset.root=bad", *folder, "experiment_name=alone")
    assert alone.returncode == 2
    assert "train/dark/1.png" in alone.stderr
    assert not (tmp_path / "outputs/alone").exists()


def test_a_folder_moved_elsewhere_is_the_same_run(opt_run: Run, tmp_path: Path) -> None:
    folder = ["dataset=image_folder", "batch_size=4", *QUIET]
    image_folder(tmp_path / "here").rename(tmp_path / "there")
    assert opt_run("dataset.root=there", *folder).returncode == 0
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    assert "finished before, skipped" in opt_run("dataset.root=elsewhere", *folder).stdout


@pytest.mark.parametrize(
    ("check", "fingerprint", "code", "said"),
    [
        ("...", "return 'buggy'", 1, "failed, KeyError: 'nothing'"),
        (
            "open('none')",
            "return 'buggy'",
            2,
            "dataset: Buggy: [Errno 2] No such file or directory",
        ),
        ("...", "...", 2, "dataset: Buggy.fingerprint() returns None, not a text"),
    ],
)
def test_a_bug_in_a_users_dataset_is_one_line(
    opt_run: Run, tmp_path: Path, check: str, fingerprint: str, code: int, said: str
) -> None:
    (tmp_path / "mine.py").write_text(
        "class Buggy:\n"
        f"    def check(self): {check}\n"
        f"    def fingerprint(self): {fingerprint}\n"
        "    def load(self): return {}['nothing']\n"
    )
    (tmp_path / "conf/dataset").mkdir(parents=True)
    text = (
        "# @package _global_\ndataset: {name: buggy, _target_: mine.Buggy}\nbudget: {epochs: 1}\n"
    )
    (tmp_path / "conf/dataset/buggy.yaml").write_text(text)
    done = opt_run("--config-dir", "conf", "dataset=buggy", "tracking=none", PYTHONPATH=".")
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    logs = [log.read_text() for log in tmp_path.glob("outputs/**/run.log")]
    assert ["mine.py" in log for log in logs] == [True] * (code == 1)  # a mistake leaves no record
