"""One model, its optimiser and its averaged weights; an epoch at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.errors import TrainingError
from attn_deploy.resolve.checkpoints import load_tensors
from attn_deploy.training.batches import ResidentImages, mixed_seed
from attn_deploy.training.recipe import Recipe

CHECK_EVERY = 16  # steps between looks at the loss on a GPU, where each look waits for the device

StepSeen = Callable[[int, float | None], None]


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One epoch: mean loss and accuracy on the augmented images as they were trained on."""

    loss: float
    accuracy: float


class Trainer:
    """Trains a model in place, in channels_last, and keeps the average of its weights.

    Args:
        module: the model, on its device.
        images: the training images, on the same device.
        recipe: how to train.
        seed: decides order and augmentation of every epoch.
        amp: compute in bfloat16 where autocast allows it.
        compiled: use torch.compile.
    """

    def __init__(
        self,
        module: nn.Module,
        images: ResidentImages,
        recipe: Recipe,
        *,
        seed: int,
        amp: bool = False,
        compiled: bool = False,
    ) -> None:
        self.module = module
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget this form
        self.average = copy.deepcopy(self.module).eval().requires_grad_(False)
        self.recipe = recipe
        self._images = images
        self._seed = seed
        self._amp = amp
        self._forward = cast(nn.Module, torch.compile(self.module)) if compiled else self.module
        self._device = next(module.parameters()).device
        self.steps = images.steps * recipe.epochs  # of the whole run
        decayed = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
        others = [p for p in module.parameters() if p.requires_grad and p.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.SGD(
            groups,
            lr=recipe.rate(0, self.steps),
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
            fused=True,
        )

    def run_epoch(self, epoch: int, seen: StepSeen = lambda step, loss: None) -> EpochResult:
        """Train one epoch, counted from 0.

        Raises:
            TrainingError: at the step whose loss is not finite.
        """
        torch.manual_seed(mixed_seed(self._seed, epoch))  # dropout draws from torch's own stream
        self._forward.train()
        losses: list[Tensor] = []
        right = torch.zeros((), dtype=torch.int64, device=self._device)
        checked = 0
        for index, (pixels, labels) in enumerate(self._images.epoch(self._images.draw(self._seed, epoch))):
            step = epoch * self._images.steps + index
            loss, logits = self._step(pixels, labels, step)
            losses.append(loss)
            right += (logits.argmax(1) == labels).sum()
            if self._device.type == "cpu" or index % CHECK_EVERY == CHECK_EVERY - 1:
                self._require_finite(losses, checked, epoch)
                checked = len(losses)
                seen(step + 1, float(loss))
            else:
                seen(step + 1, None)
        self._require_finite(losses, checked, epoch)
        count = self._images.steps * self.recipe.batch
        return EpochResult(float(torch.stack(losses).mean()), int(right) / count)

    def _step(self, pixels: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.rate(step, self.steps)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
            logits = self._forward(pixels)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._update_average(self.recipe.ema_decay(step, self.steps))
        return loss.detach(), logits.detach()

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        own, averaged = self._tensors(self.module), self._tensors(self.average)
        moving = [(a, o) for a, o in zip(averaged, own, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in moving], [o for _, o in moving], 1 - decay)
        for a, o in zip(averaged, own, strict=True):
            if not a.is_floating_point():
                a.copy_(o)

    def _require_finite(self, losses: list[Tensor], start: int, epoch: int) -> None:
        values = torch.stack(losses[start:]).tolist() if losses[start:] else []
        for offset, value in enumerate(values):
            if not math.isfinite(value):
                step = epoch * self._images.steps + start + offset
                rate = self.recipe.rate(step, self.steps)
                raise TrainingError(
                    f"the loss is {value} at step {step + 1} of {self.steps} (epoch {epoch + 1}, learning rate "
                    f"{rate:.4g}); training was stopped, and the checkpoint is that of epoch {epoch}. Use a lower "
                    "--rate, or train without --amp."
                )

    def state(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on, as named tensors on the CPU."""
        tensors = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that `state` gave.

        Raises:
            CheckpointError: if it is of another model.
        """
        for module, prefix in ((self.module, "model."), (self.average, "average.")):
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            load_tensors(module, own, "the checkpoint")
        for name, parameter in self.module.named_parameters():
            momentum = state.get(f"momentum.{name}")
            if momentum is not None:
                buffer = torch.empty_like(parameter).copy_(momentum)
                self._optimizer.state[parameter] = {"momentum_buffer": buffer}

    @staticmethod
    def _tensors(module: nn.Module) -> list[Tensor]:
        return [*module.parameters(), *module.buffers()]
