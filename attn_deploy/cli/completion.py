"""Completion of model names from the catalogue."""

from __future__ import annotations

# The registry is imported where it is asked, so that no other command waits for it.


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """Registry names that begin with what was typed; after a ``+``, what fits a slot; files are left to the shell."""
    from attn_deploy import registry

    head, plus, tail = incomplete.rpartition("+")
    return [
        (f"{head}{plus}{spec.name}", spec.summary)
        for spec in registry.list_models()
        if spec.name.startswith(tail) and not (plus and spec.family == "backbone")
    ]


def complete_family(incomplete: str) -> list[str]:
    """Families that begin with what was typed."""
    from attn_deploy import registry

    return sorted({s.family for s in registry.list_models() if s.family.startswith(incomplete)})


def complete_device(incomplete: str) -> list[str]:
    """Device profiles that begin with what was typed."""
    from attn_deploy.machine.devices import list_devices

    return [d for d in list_devices() if d.startswith(incomplete)]
