"""The script that draws the charts of a page."""

from __future__ import annotations

from attn_deploy.errors import MissingDependencyError


def plotly_script() -> str:
    """The text of plotly.js.

    Raises:
        MissingDependencyError: if plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "plotly is not installed; the charts of the HTML page need it: pip install 'attn-deploy[report]'. "
            "Markdown, CSV and JSON need nothing."
        ) from error
    return str(get_plotlyjs()).replace("</script", "<\\/script")
