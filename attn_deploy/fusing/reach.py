"""Which parts of a module its code takes apart, where that code cannot be traced and must be read."""

from __future__ import annotations

import ast
import inspect
import textwrap

from torch import nn


def reached_into(module: nn.Module) -> set[str]:
    """Names of the children that `forward` does more with than to call them.

    A sequence that is indexed or iterated (to collect features), or a child whose own children are called, computes
    what its own code does not show. Taking elements out of a ModuleList or ModuleDict is what those are for.
    """
    children = dict(module.named_children())
    if "forward" in vars(module):
        return set(children)
    uses = _uses(type(module))
    if uses is None:
        return set(children)
    lists = {n for n, c in children.items() if isinstance(c, (nn.ModuleList, nn.ModuleDict))}
    return {
        name for name, how in uses if name in children and how != "call" and not (how == "element" and name in lists)
    }


def _uses(cls: type) -> frozenset[tuple[str, str]] | None:
    """Every ``self.name`` in `forward` and in the methods it calls, and how it is used; None where there is no source."""
    usages: set[tuple[str, str]] = set()
    todo, done = ["forward"], set()
    while todo:
        name = todo.pop()
        method = inspect.getattr_static(cls, name, None)
        if name in done or not inspect.isfunction(method):
            continue
        done.add(name)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
        except (OSError, TypeError, SyntaxError):
            return None
        around = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                usages.add((node.attr, _usage(node, around)))
                todo.append(node.attr)
    return frozenset(usages)


def _usage(node: ast.AST, around: dict[ast.AST, ast.AST]) -> str:
    outer = around.get(node)
    if isinstance(outer, ast.Call) and outer.func is node:
        return "call"
    if isinstance(outer, ast.Compare):  # `self.downsample is not None`
        return "call"
    if isinstance(outer, ast.Subscript) and outer.value is node:
        return "part" if isinstance(around.get(outer), ast.Attribute) else "element"
    if isinstance(outer, (ast.For, ast.comprehension)) and outer.iter is node:
        return "element"
    if (
        isinstance(outer, ast.Call)
        and isinstance(outer.func, ast.Name)
        and outer.func.id in ("zip", "enumerate", "len")
    ):
        return "element"
    return "part"
