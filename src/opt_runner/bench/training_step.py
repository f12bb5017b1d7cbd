"""One step of training, as `training/loop.py` takes it between two records."""

import torch
from torch import Tensor, nn

from opt_runner import components
from opt_runner.config import Config
from opt_runner.datasets import Batches
from opt_runner.hardware import Hardware
from opt_runner.methods import Method
from opt_runner.opt import OPT
from opt_runner.training.loss import smoothed_cross_entropy
from opt_runner.training.schedule import set_learning_rates


class TrainingStep:
    """Each call is the next step of the cell: its method, optimizer, schedule and loss.

    The calls are those of the loop, in its order: whoever changes the one changes the other.
    """

    def __init__(
        self, network: nn.Module, cell: Config, batches: Batches, hardware: Hardware
    ) -> None:
        steps = cell.budget.in_steps(batches.steps_per_epoch)
        method: Method = components.build(cell.method, "method")
        generator = torch.Generator().manual_seed(cell.seed)
        self.opt = OPT(hardware.place(network), method.scaled_to(steps), generator=generator)
        self.opt.train()
        if hardware.compile:
            self.opt.compile()
        self.optimizer = self.opt.optimizer(**cell.optimizer.model_dump())
        self.cell = cell
        self.batches = batches
        self.hardware = hardware
        self.warmup = round(cell.schedule.warmup * steps)
        self.milestones = [round(share * steps) for share in cell.schedule.milestones]
        self.step = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=hardware.device)
        self.diverged_at = torch.tensor(0, device=hardware.device)

    def __call__(self) -> None:
        schedule = self.cell.schedule
        set_learning_rates(self.optimizer, self.step, self.warmup, self.milestones, schedule.factor)
        self.update(*self.batches.batch(self.step))
        self.step += 1

    def update(self, x: Tensor, y: Tensor) -> None:
        """The step on one batch: forward, loss, backward, optimizer, and what the loop keeps."""
        loss_options = self.cell.loss
        with self.hardware.autocast():
            logits = self.opt(x)
        fit = smoothed_cross_entropy(
            logits.float(), y, loss_options.label_smoothing, loss_options.softmax_floor
        )
        loss = fit + self.opt.penalty()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.loss_sum += fit.detach()
        bad = ~torch.isfinite(loss.detach()) & (self.diverged_at == 0)
        self.diverged_at = torch.where(bad, self.step + 1, self.diverged_at)

    @property
    def diverged(self) -> bool:
        """Whether the loss of some step was NaN or infinite. Waits for a GPU."""
        return bool(self.diverged_at)
