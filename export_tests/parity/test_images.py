"""A batch image by image in float64: where images do not mix that is the same, and where they do it is not done."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_deploy.fusing import copying
from attn_deploy.parity.images import ImageByImage
from attn_deploy.parity.reference import EagerReference, FreshRunner
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.eager import EagerRunner


class Separate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 7)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.second(self.first(x).relu().mean((2, 3)))
        return scores, scores.argmax(1)


class Centred(nn.Module):
    """Normalised by the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Placed(nn.Module):
    """An image is treated by its place."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(len(x), dtype=x.dtype).reshape(-1, 1, 1, 1)


class Ranked(nn.Module):
    """Choices among the images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)).argsort()


class Summed(nn.Module):
    """Without an axis of images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((0, 1))


class Flat(nn.Module):
    """The images of the output are not those of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0.0


def images(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 6, 5)).astype(np.float32)}


class Recorded:
    """Makes runners of a module in float64, and notes what they run."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.batches, self.open = module.eval(), [], 0

    def __call__(self) -> EagerRunner:
        runner = EagerRunner(self.module, dtype=torch.float64)
        prepare, close = runner.prepare, runner.close
        self.open += 1

        def prepared(inputs) -> None:
            self.batches.append(len(next(iter(inputs.values()))))
            prepare(inputs)

        def closed() -> None:
            self.open -= 1
            close()

        runner.prepare, runner.close = prepared, closed  # type: ignore[method-assign]
        return runner


def whole(module: nn.Module, inputs) -> dict[str, np.ndarray]:
    return run_once(EagerRunner(module.eval(), dtype=torch.float64), inputs)


def same(got, right) -> None:
    assert list(got) == list(right)
    for name, value in right.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-12, atol=1e-12)
        assert got[name].dtype == value.dtype


def test_images_run_alone_once_a_pair_has_shown_that_they_do_not_mix():
    make = Recorded(Separate())
    runner = ImageByImage(make)
    for count, ran in ((2, [2]), (4, [2, 1, 1, 1, 1]), (3, [1, 1, 1]), (2, [1, 1]), (1, [1])):
        make.batches.clear()
        same(run_once(runner, images(count, count)), whole(make.module, images(count, count)))
        assert make.batches == ran
        assert make.open == 0
    assert runner.info.precision == "float64"


@pytest.mark.parametrize("module", [Centred(), Placed(), Ranked(), Summed(), Flat(), Infinite()])
def test_images_that_mix_run_together(module):
    make = Recorded(module)
    runner = ImageByImage(make)
    for count, ran in ((3, [2, 1, 1, 1, 3]), (4, [4])):
        make.batches.clear()
        same(run_once(runner, images(count)), whole(module, images(count)))
        assert make.batches == ran
        assert make.open == 0


def test_answers_of_as_many_rows_as_an_image_has_are_those_of_all():
    """Two images that happen to give as many rows show nothing of the third."""

    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, (x > 0).all(1).all(0).all(1)]

    ones = np.ones((3, 3, 6, 5), np.float32)
    ones[2, 0, 4] = -1.0
    make = Recorded(Positive())
    same(run_once(ImageByImage(make), {"x": ones}), whole(make.module, {"x": ones}))
    assert make.batches == [2, 1, 1, 1, 3]


def test_inputs_that_do_not_agree_on_the_images_run_together():
    class Weighted(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return x * scale.sum()

    make = Recorded(Weighted())
    inputs = {**images(3), "scale": np.ones(4, np.float32)}
    same(run_once(ImageByImage(make), inputs), whole(make.module, inputs))
    assert make.batches == [3]


def test_a_network_that_takes_no_single_image_is_run_on_all():
    class Several(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 1:
                raise RuntimeError("a batch of one")
            return x

    make = Recorded(Several())
    runner = ImageByImage(make)
    for _ in range(2):
        same(run_once(runner, images(3)), whole(make.module, images(3)))
    assert make.batches == [2, 1, 3, 3]
    assert make.open == 0


def test_a_failure_is_the_callers_and_leaves_nothing_open():
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("of the model")

    make = Recorded(Fails())
    with pytest.raises(RuntimeError, match="of the model"):
        run_once(ImageByImage(make), images(3))
    assert make.open == 0


@pytest.mark.parametrize("large", [False, True])
def test_a_large_network_is_judged_image_by_image(large, monkeypatch):
    monkeypatch.setattr(copying, "LARGE", 16 if large else 1 << 25)
    sizes: list[int] = []
    prepare = EagerRunner.prepare

    def noted(self, inputs) -> None:
        sizes.append(len(inputs["x"]))
        prepare(self, inputs)

    monkeypatch.setattr(EagerRunner, "prepare", noted)
    module = Separate().eval()
    right = run_once(FreshRunner(module, precise=True), images(4))
    sizes.clear()
    same(run_once(EagerReference(module).precise(), images(4)), right)
    assert sizes == ([2, 1, 1, 1, 1] if large else [4])
