"""Per-layer views as plain text."""

from __future__ import annotations

from attn_deploy.bench.layers import LayerReport, ModuleTime

BAR = 24  # characters of a whole


def layers_text(report: LayerReport, count: int = 20) -> str:
    """The modules as an indented tree with bars, then the slowest nodes."""
    total = report.total_us or 1.0
    shapes = ", ".join("x".join(map(str, s)) for s in report.shapes.values())
    lines = [
        f"{report.name} in {report.runtime} {report.precision}, {shapes}: {report.total_us:,.0f} us in "
        f"{len(report.layers)} nodes, {report.whole_us:,.0f} us with what is between them ({report.source}, {report.runs} runs)",
        "",
    ]
    tree = _inside("", report.modules)
    shown = [m for m in tree if m.microseconds >= 0.01 * total]
    width = max((2 * m.module.count(".") + len(m.module.rpartition(".")[2]) for m in shown), default=0) + 4
    for module in shown:
        depth = module.module.count(".") + 1 if module.module else 0
        label = "  " * depth + (module.module.rpartition(".")[2] or report.name)
        bar = "#" * max(1, round(BAR * module.microseconds / total))
        lines.append(
            f"{label:<{max(width, 16)}} {module.microseconds:>10,.1f} us {100 * module.microseconds / total:>5.1f} %  {bar}"
        )
    hidden = len(tree) - len(shown)
    lines += [f"({hidden} modules below 1 % are left out)"] if hidden else []
    lines += ["", "slowest nodes:"]
    lines += [
        f"{x.microseconds:>10,.1f} us {100 * x.microseconds / total:>5.1f} %  {x.operator:<16} {x.module or '(the model itself)'}"
        for x in report.slowest(count)
    ]
    if report.known_share < 0.995:
        lines.append(f"the module is known for {100 * report.known_share:.0f} % of the time")
    return "\n".join(lines)


def _inside(path: str, modules: tuple[ModuleTime, ...]) -> list[ModuleTime]:
    """A module and all below it, each with its own behind it, in order of execution."""
    inside = [m for m in modules if m.module == path]
    for module in modules:
        if module.module and module.module.rpartition(".")[0] == path:
            inside += _inside(module.module, modules)
    return inside
