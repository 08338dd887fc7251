"""Pages in tests."""

from __future__ import annotations

import re


def with_script(page: str, script: str) -> str:
    """The page with a script of a test in it, which its policy would not let run."""
    open_page, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page, count=1)
    assert count == 1, "every page has a policy"
    return open_page.replace("</body>", script, 1)
