"""One training step: learning rate, batch, forward, loss, backward, optimizer."""

from typing import Any

import torch
from torch import Tensor

from opt_runner.config import components
from opt_runner.run.schedule import Schedule, set_learning_rates
from opt_runner.run.set_up import Setup


class TrainingStep:
    """The training steps of a run; each call makes the next one.

    done: steps made so far. loss_sum: the sum of the losses since `take_mean_loss`, without the
    penalty. Sums stay on the device, so that a step never waits for a GPU. average: a checkpoint's.
    """

    def __init__(
        self,
        setup: Setup,
        done: int = 0,
        loss_sum: float = 0.0,
        loss_count: int = 0,
        average: dict[str, Tensor] | None = None,
    ) -> None:
        device = setup.device.torch_device
        self.setup = setup
        self.done = done
        self.schedule = components.build(setup.config.schedule, "schedule", Schedule)
        self.warmup = round(setup.config.schedule.warmup * setup.steps)
        self.loss_sum = torch.tensor(loss_sum, dtype=torch.float64, device=device)
        self.loss_count = loss_count
        self.loss = torch.zeros((), device=device)  # of the last step
        self.penalty = torch.zeros((), device=device)  # of the last step
        self._diverged_at = torch.tensor(0, device=device)
        if setup.average is not None and average is not None:
            setup.average.load(average)

    def __call__(self) -> None:
        set_learning_rates(
            self.setup.optimizer, self.schedule, self.done, self.setup.steps, self.warmup
        )
        self.update(*self.setup.batches.batch(self.done))
        self.done += 1
        if self.setup.average is not None:
            self.setup.average.update(self.done)
        self.loss_count += 1

    def update(self, x: Tensor, y: Tensor) -> None:
        """Make the step on one batch, at the current learning rate."""
        opt, optimizer = self.setup.opt, self.setup.optimizer
        optimizer.zero_grad()
        parts = self.setup.config.optimizer.accumulate
        if parts == 1:
            loss, penalty = self._loss(x, y)
            total = loss + penalty
            torch.autograd.backward(total)
        else:
            loss, penalty, total = self._accumulate(x, y, parts)
        loss, total = self._of_whole_batch(loss.detach(), total.detach())
        if clip := self.setup.config.optimizer.clip:
            torch.nn.utils.clip_grad_norm_(opt.parameters(), clip)
        optimizer.step()

        self.loss, self.penalty = loss, penalty.detach()
        self.loss_sum += self.loss
        bad = ~torch.isfinite(total) & (self._diverged_at == 0)
        self._diverged_at = torch.where(bad, self.done + 1, self._diverged_at)

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss on a batch, and the methods' penalty."""
        options = self.setup.config.loss
        with self.setup.device.autocast():
            outputs = self.setup.opt(x).to(self.setup.device.dtype)
        loss = self.setup.data.loss(outputs, y, options.label_smoothing, options.softmax_floor)
        return loss, self.setup.opt.penalty()

    def _accumulate(self, x: Tensor, y: Tensor, parts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Add up the gradients of the parts of a batch; return loss, penalty and their sum.

        BatchNorm takes the statistics of each part. The penalty counts once.
        """
        losses = []
        for part_x, part_y in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
            loss, penalty = self._loss(part_x, part_y)
            share = len(part_x) / len(x)
            torch.autograd.backward(share * (loss + penalty))
            losses.append(share * loss.detach())
        total = torch.stack(losses).sum()
        return total, penalty, total + penalty

    def _of_whole_batch(self, loss: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of the whole batch, and make the gradients those of the whole batch.

        Both are means over the parts that the processes have computed.
        """
        processes = self.setup.processes
        if not processes.several:
            return loss, total
        gradients = [p.grad for p in self.setup.opt.parameters() if p.grad is not None]
        losses = torch.stack([loss, total])
        processes.mean_([*gradients, losses])
        return losses[0], losses[1]

    def take_mean_loss(self) -> float:
        """Return the mean loss since the last call. Waits for a GPU."""
        mean = float(self.loss_sum) / self.loss_count
        self.loss_sum.zero_()
        self.loss_count = 0
        return mean

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: losses since `take_mean_loss`, and averaged weights."""
        state: dict[str, Any] = {"loss_sum": float(self.loss_sum), "loss_count": self.loss_count}
        if self.setup.average is not None:
            state["average"] = self.setup.average.tensors
        return state

    def diverged_at(self) -> int:
        """Return the first step whose loss was NaN or infinite, or 0. Waits for a GPU."""
        return int(self._diverged_at)
