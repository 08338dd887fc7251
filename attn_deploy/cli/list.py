"""``attn-deploy list``."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_family
from attn_deploy.cli.streams import echo, json_text


def list_(
    family: Annotated[str | None, typer.Argument(help="Show only this family.", autocompletion=complete_family)] = None,
    family_option: Annotated[
        str | None, typer.Option("--family", help="Show only this family.", autocompletion=complete_family)
    ] = None,
    year: Annotated[int | None, typer.Option(help="Show only models whose paper is of this year.")] = None,
    search: Annotated[
        str | None, typer.Option(help="Show only models with these words in their name, summary, paper or source.")
    ] = None,
    devices: Annotated[
        bool, typer.Option("--devices", help="Show the devices of build --device and profile --device.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every field of every entry as JSON and nothing else.")
    ] = False,
) -> None:
    """List the zoo and the backbones, grouped by family.

    \b
    Examples:
      attn-deploy list
      attn-deploy list attention
      attn-deploy list --family backbone
      attn-deploy list --search "channel attention" --year 2020
      attn-deploy list --devices
      attn-deploy list --json
    """
    from attn_deploy.errors import InvalidRequestError
    from attn_deploy.registry import list_models
    from attn_deploy.report.text import devices_text, models_text

    if devices:
        from attn_deploy.machine.devices import list_devices, load_device

        known = [load_device(name) for name in list_devices()]
        echo(json_text([d.to_dict() for d in known]) if as_json else devices_text(known))
        return

    if family is not None and family_option is not None and family != family_option:
        raise InvalidRequestError(f"two families were named, {family!r} and {family_option!r}; name one.")
    specs = list_models(family or family_option, year=year, search=search)
    if as_json:
        echo(json_text([s.to_dict() for s in specs], ensure_ascii=False))
    else:
        echo(models_text(specs, shutil.get_terminal_size((120, 24)).columns))
