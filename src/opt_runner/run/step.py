"""One training step: learning rate, batch, forward, loss, backward, optimizer."""

from typing import Any

import torch
from torch import Tensor

from opt_runner.run.loss import smoothed_cross_entropy
from opt_runner.run.schedule import set_learning_rates
from opt_runner.run.set_up import Setup


class TrainingStep:
    """Each call is the next step of a run.

    done: steps made so far. loss_sum: of the losses since `take_mean_loss`, without the penalty.
    What the steps add up stays on the device: a step never waits for a GPU.
    """

    def __init__(
        self,
        setup: Setup,
        done: int = 0,
        loss_sum: float = 0.0,
        loss_count: int = 0,
    ) -> None:
        schedule, device = setup.config.schedule, setup.device.torch_device
        self.setup = setup
        self.done = done
        self.warmup = round(schedule.warmup * setup.steps)
        self.milestones = [round(share * setup.steps) for share in schedule.milestones]
        self.loss_sum = torch.tensor(loss_sum, dtype=torch.float64, device=device)
        self.loss_count = loss_count
        self.loss = torch.zeros((), device=device)  # of the last step
        self.penalty = torch.zeros((), device=device)  # of the last step
        self._diverged_at = torch.tensor(0, device=device)

    def __call__(self) -> None:
        set_learning_rates(
            self.setup.optimizer,
            self.done,
            self.warmup,
            self.milestones,
            self.setup.config.schedule.factor,
        )
        self.update(*self.setup.batches.batch(self.done))
        self.done += 1
        self.loss_count += 1

    def update(self, x: Tensor, y: Tensor) -> None:
        """The step on one batch, at the learning rate that is set."""
        opt, optimizer, options = self.setup.opt, self.setup.optimizer, self.setup.config.loss
        with self.setup.device.autocast():
            logits = opt(x)
        loss = smoothed_cross_entropy(
            logits.to(self.setup.device.dtype), y, options.label_smoothing, options.softmax_floor
        )
        penalty = opt.penalty()
        total = loss + penalty
        optimizer.zero_grad()
        torch.autograd.backward(total)
        loss, total = self._of_whole_batch(loss.detach(), total.detach())
        optimizer.step()

        self.loss, self.penalty = loss, penalty.detach()
        self.loss_sum += self.loss
        bad = ~torch.isfinite(total) & (self._diverged_at == 0)
        self._diverged_at = torch.where(bad, self.done + 1, self._diverged_at)

    def _of_whole_batch(self, loss: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """The losses, and in place the gradients, of this process's part of the batch are replaced
        by their means over all parts, which are those of the batch."""
        processes = self.setup.processes
        if not processes.several:
            return loss, total
        gradients = [p.grad for p in self.setup.opt.parameters() if p.grad is not None]
        losses = torch.stack([loss, total])
        processes.mean_([*gradients, losses])
        return losses[0], losses[1]

    def take_mean_loss(self) -> float:
        """The mean since it was last taken. Waits for a GPU."""
        mean = float(self.loss_sum) / self.loss_count
        self.loss_sum.zero_()
        self.loss_count = 0
        return mean

    def losses(self) -> dict[str, Any]:
        """Return the sum and number of losses since `take_mean_loss`, for a checkpoint."""
        return {"loss_sum": float(self.loss_sum), "loss_count": self.loss_count}

    def diverged_at(self) -> int:
        """The first step whose loss was NaN or infinite, or 0. Waits for a GPU."""
        return int(self._diverged_at)
