"""What the frameworks do with their registries, restated in a few lines, for machines without them."""

from __future__ import annotations

import contextlib
import types

import torch
from torch import nn


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2)

    def forward(self, x):
        return self.conv(x).relu()


def tasks_module():
    """A module with a ``parse_model`` as that of ultralytics: names by its globals, words by its locals."""
    tasks = types.ModuleType("restated_tasks")
    tasks.Conv = Conv

    def parse_model(d, ch, verbose=True):
        import ast

        depth, width = d.get("depth_multiple", 1.0), d.get("width_multiple", 1.0)
        ch, layers = [ch], []
        for i, (f, n, m, args) in enumerate(d["backbone"] + d["head"]):
            m = vars(tasks)[m]
            for j, a in enumerate(args):
                if isinstance(a, str):
                    with contextlib.suppress(ValueError):
                        args[j] = {"ch": ch, "f": f}[a] if a in ("ch", "f") else ast.literal_eval(a)
            n = max(round(n * depth), 1) if n > 1 else n
            if m is Conv:
                c2 = int(args[0] * width)
                args = [ch[f], c2, *args[1:]]
            else:
                c2 = ch[f]
            layers.append(nn.Sequential(*(m(*args) for _ in range(n))) if n > 1 else m(*args))
            if i == 0:
                ch = []
            ch.append(c2)
        return nn.Sequential(*layers), []

    tasks.parse_model = parse_model
    return tasks


class Registry:
    """As mmengine's: classes by name, made from a table with their type."""

    def __init__(self):
        self._classes = {}

    def get(self, key):
        return self._classes.get(key)

    def register_module(self, name, module, force=False):
        if name in self._classes and not force:
            raise KeyError(f"{name} is already registered")
        self._classes[name] = module

    def build(self, cfg):
        settings = dict(cfg)
        return self._classes[settings.pop("type")](**settings)


IMAGE = torch.linspace(-1, 1, 2 * 3 * 64 * 96).reshape(2, 3, 64, 96)
