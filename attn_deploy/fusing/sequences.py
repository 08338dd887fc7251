"""BatchNorm after a convolution in the sequences of the project's own modules.

Some of them go through a sequence element by element, which symbolic tracing takes for code that may do anything. Here it
is known: no module of this project takes the output of a convolution from between it and its BatchNorm, which the tests of
the registry hold against every entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from attn_deploy.fusing.tracing import is_hooked
from attn_deploy.ops.folding import fold_bn_into_conv

_OWN = ("attn_deploy.modules.", "attn_deploy.backbones.")


def fold_own_sequences_(model: nn.Module) -> list[tuple[str, str]]:
    """Fold BatchNorm2d into the Conv2d right before it, in place.

    Returns:
        What was done, as (path of the sequence, words).
    """
    places = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    changes = []
    for path, sequence in list(_own_sequences(model)):
        count = 0
        for first, second in zip(list(sequence._modules), list(sequence._modules)[1:], strict=False):
            conv, bn = sequence._modules[first], sequence._modules[second]
            if type(conv) is not nn.Conv2d or type(bn) is not nn.BatchNorm2d or bn.training or bn.running_mean is None:
                continue
            if is_hooked(conv) or is_hooked(bn) or places[id(conv)] > 1 or places[id(bn)] > 1:
                continue
            sequence._modules[first], sequence._modules[second] = fold_bn_into_conv(conv, bn), nn.Identity().eval()
            count += 1
        if count:
            changes.append((path, f"folded {count} BatchNorm{'s' * (count > 1)}"))
    return changes


def _own_sequences(model: nn.Module) -> Iterator[tuple[str, nn.Sequential]]:
    for path, module in model.named_modules():
        if not type(module).__module__.startswith(_OWN):
            continue
        todo = [(f"{path}.{n}" if path else n, c) for n, c in module.named_children()]
        while todo:
            place, child = todo.pop(0)
            if type(child) is nn.Sequential and not is_hooked(child):
                yield place, child
                todo += [(f"{place}.{n}", c) for n, c in child.named_children()]
