"""Training by the loops of transformers, accelerate and Lightning, and from their checkpoints."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opt_runner import OPT, merge
from opt_runner.errors import UserError
from tests.frameworks.test_heads import SMALL
from tests.slow import slow

METHODS = ["cayley", "ogd", "frame", "sopt", "oft", "poet"]
OPTIONS: dict[str, dict[str, Any]] = {"sopt": {"round_steps": 4}, "poet": {"round_steps": 4}}
# As a tokenizer's, with a column that the network does not take.
ROWS = [
    {"input_ids": [i, i + 1, i + 2, 3], "labels": i % 2, "text": f"row {i}"} for i in range(4, 20)
]


def classifier(lib: Any) -> nn.Module:
    torch.manual_seed(0)
    return lib.BertForSequenceClassification(lib.BertConfig(**SMALL, num_labels=2))


def trainer(lib: Any, folder: Path, opt: OPT, optimizer: Any = None, **options: Any) -> Any:
    defaults = {
        "output_dir": str(folder), "max_steps": 6, "save_steps": 4, "use_cpu": True, "seed": 1,
        "per_device_train_batch_size": 4, "report_to": [], "disable_tqdm": True,
        "learning_rate": 0.05, "lr_scheduler_type": "constant", "logging_steps": 100,
    }  # fmt: skip
    return lib.Trainer(
        opt, lib.TrainingArguments(**{**defaults, **options}),
        train_dataset=ROWS, eval_dataset=ROWS, optimizers=(optimizer, None),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["cayley", "poet", *slow("ogd", "frame", "sopt", "oft")])
def test_trainer_resumes_to_the_bit(method: str, tmp_path: Path) -> None:
    lib = pytest.importorskip("transformers")
    options = OPTIONS.get(method, {})

    def start() -> tuple[OPT, Any]:
        opt = OPT(classifier(lib), method, **options)
        # cayley and oft by Trainer's own AdamW
        return opt, None if method in ("cayley", "oft") else opt.optimizer(lr=0.05)

    opt, optimizer = start()
    R = opt.stacks[0].trained["R"].detach().clone()
    through = trainer(lib, tmp_path, opt, optimizer)
    through.train()
    assert not torch.equal(opt.stacks[0].trained["R"], R)
    assert (tmp_path / "checkpoint-4" / "model.safetensors").is_file()

    again, optimizer = start()
    trainer(lib, tmp_path, again, optimizer).train(str(tmp_path / "checkpoint-4"))
    assert again.steps == opt.steps
    for name, value in opt.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name

    found = through.predict(ROWS)
    assert found.metrics["test_loss"] > 0  # it sees the labels
    assert found.predictions.shape == (16, 2)
    plain = merge(opt).eval()
    inputs = torch.tensor([row["input_ids"] for row in ROWS])
    logits = plain(input_ids=inputs).logits.detach()
    torch.testing.assert_close(torch.tensor(found.predictions), logits, rtol=1e-4, atol=1e-5)


def test_trainer_adds_the_penalty(tmp_path: Path) -> None:
    lib = pytest.importorskip("transformers")
    first = []
    for scale in (1e-9, 10.0):
        opt = OPT(classifier(lib), "so", scale=scale)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # that there was no penalty
            of_one = trainer(lib, tmp_path, opt, max_steps=2, logging_steps=1)
            of_one.train()
        first.append(of_one.state.log_history[0]["loss"])
        assert not opt.accepts_loss_kwargs
    assert first[1] > first[0] + 1


def test_trainer_with_activation_checkpointing(tmp_path: Path) -> None:
    lib = pytest.importorskip("transformers")
    found = []
    for on in (False, True):
        config = lib.BertConfig(
            **SMALL, num_labels=2, hidden_dropout_prob=0, attention_probs_dropout_prob=0
        )
        torch.manual_seed(0)
        opt = OPT(lib.BertForSequenceClassification(config), "cayley")
        if on:  # as Trainer does for its gradient_checkpointing=True
            opt.gradient_checkpointing_enable({"use_reentrant": False})
        assert opt.network.bert.encoder.layer[0].gradient_checkpointing is on
        trainer(lib, tmp_path, opt, max_steps=1, optim="sgd").train()
        found.append(opt.stacks[0].trained["R"].detach())
    torch.testing.assert_close(*found)


def test_the_network_reaches_through() -> None:
    lib = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = lib.GPT2LMHeadModel(lib.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32))
    opt = OPT(network, "cayley", start="normal").eval()
    assert opt.config is network.config
    assert opt.device.type == "cpu"
    tokens = torch.tensor([[3, 5, 7]])
    plain = merge(opt)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(opt.generate(tokens, **options), plain.generate(tokens, **options))
    with pytest.raises(AttributeError, match="transformer of the network computes with W"):
        _ = opt.transformer
    with pytest.raises(AttributeError, match="has no attribute 'transfomer'"):
        _ = opt.transfomer


def steps(accelerator: Any, opt: Any, optimizer: Any, batches: list[Tensor]) -> None:
    for x in batches:
        loss = opt(x).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()


def small(method: str) -> tuple[OPT, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    opt = OPT(network, method, **OPTIONS.get(method, {}))
    return opt, opt.optimizer(lr=0.1)


BATCHES = list(torch.randn(6, 4, 6, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("method", METHODS)
def test_accelerate_resumes_to_the_bit(method: str, tmp_path: Path) -> None:
    lib = pytest.importorskip("accelerate")
    accelerator = lib.Accelerator(cpu=True)
    opt, optimizer = accelerator.prepare(*small(method))
    steps(accelerator, opt, optimizer, BATCHES[:4])
    accelerator.save_state(str(tmp_path))
    steps(accelerator, opt, optimizer, BATCHES[4:])

    accelerator = lib.Accelerator(cpu=True)
    again, optimizer = accelerator.prepare(*small(method))
    accelerator.load_state(str(tmp_path))
    assert again.steps == 4
    steps(accelerator, again, optimizer, BATCHES[4:])
    for name, value in opt.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    plain = merge(accelerator.unwrap_model(again))
    torch.testing.assert_close(plain(BATCHES[0]), opt(BATCHES[0]))


def test_an_optimizer_that_accelerate_has_wrapped_is_attached() -> None:
    lib = pytest.importorskip("accelerate")
    opt, _ = small("sopt")
    accelerator = lib.Accelerator(cpu=True)
    opt, optimizer = accelerator.prepare(opt, torch.optim.AdamW(opt.parameters()))
    with pytest.raises(UserError, match=r"call opt.attach\(optimizer\)"):
        steps(accelerator, opt, optimizer, BATCHES[:1])
    opt.attach(optimizer)
    steps(accelerator, opt, optimizer, BATCHES[:2])
    assert opt.steps == 2


@pytest.mark.parametrize("method", METHODS)
def test_lightning_resumes_to_the_bit(method: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.opt, self.made = small(method)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self.opt(batch[0]).square().mean() + self.opt.penalty()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.made

    def fit(epochs: int, checkpoint: Path | None = None) -> tuple[OPT, Any]:
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        data = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.cat(BATCHES[:2])), batch_size=4
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Lightning's, of workers and shuffling
            trainer.fit(module, data, ckpt_path=checkpoint)
        return module.opt, trainer

    opt, _ = fit(3)
    _, trainer = fit(2)
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    again, _ = fit(3, tmp_path / "four.ckpt")
    assert again.steps == 6
    for name, value in opt.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_onecycle_that_overwrites_the_rates_is_told() -> None:
    opt, _ = small("cayley")
    optimizer = opt.optimizer(lr=0.1, rotation_lr=0.5)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    opt(BATCHES[0]).square().mean().backward()
    with pytest.warns(UserWarning, match=r"rates .* were \[0.1, 0.5\], and a scheduler has made"):
        optimizer.step()
    optimizer = opt.optimizer(lr=0.1, rotation_lr=0.5)
    rates = [group["lr"] for group in optimizer.param_groups]
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=10)
    opt(BATCHES[0]).square().mean().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
