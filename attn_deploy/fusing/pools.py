"""SPP in a user's model: max pools of growing windows on one map, each made of the one before it."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from torch import fx, nn

from attn_deploy.fusing.tracing import follow, is_hooked


def chain_max_pools_(model: nn.Module) -> list[tuple[str, str]]:
    """Make a 9x9 pool beside a 5x5 one on the same map two 5x5 ones, and so on, in place; equal bit for bit.

    A maximum over 5x5 of maxima over 5x5 is one over 9x9, and padding is minus infinity in both. The first pools of each
    chain repeat the smaller pool of the same map; the simplifier of the export merges what is repeated, so that 5, 9 and
    13 become one 5x5 pool applied three times.
    """
    if sum(_window(m) > 0 for m in model.modules()) < 2:
        return []
    changes = []
    connections = follow(model)
    for part in connections.followed:
        on_one_map: dict[fx.Node, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for node in part.graphs[0].nodes:
            if node.op != "call_module" or len(node.all_input_nodes) != 1:
                continue
            window = _window(part.root.get_submodule(str(node.target)))
            if window:
                on_one_map[node.all_input_nodes[0]][window].append(connections.name_of(part, node.target))
        for by_window in on_one_map.values():
            windows = sorted(by_window)
            steps = [windows[0], *(b - a + 1 for a, b in pairwise(windows))]
            for count, window in enumerate(windows[1:], 2):
                for path in by_window[window]:
                    chain = nn.Sequential(*(nn.MaxPool2d(k, 1, k // 2) for k in steps[:count]))
                    for place in connections.places[path]:
                        around, _, name = place.rpartition(".")
                        model.get_submodule(around)._modules[name] = chain.eval()
                    sizes = ", ".join(f"{k}x{k}" for k in steps[:count])
                    changes.append((path, f"made the {window}x{window} max pool of {sizes}"))
    return changes


def _window(module: nn.Module) -> int:
    """The odd window of a pool that keeps the size of its map; 0 for any other module."""
    if type(module) is not nn.MaxPool2d or is_hooked(module) or module.return_indices:
        return 0
    window = module.kernel_size if isinstance(module.kernel_size, int) else module.kernel_size[0]
    plain = [(v, v) if isinstance(v, int) else tuple(v) for v in (module.kernel_size, module.stride, module.padding)]
    fits = window % 2 == 1 and plain == [(window, window), (1, 1), (window // 2, window // 2)]
    return window if fits and window > 1 and module.dilation in (1, (1, 1)) else 0
