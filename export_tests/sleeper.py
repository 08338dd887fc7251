"""A child process that hangs. No torch, so that it hangs at once."""

from __future__ import annotations

import os
import time
from pathlib import Path


def sleep_for_ever(emit):
    Path(os.environ["NOTE_OF_THE_SLEEPER"]).write_text(str(os.getpid()))
    time.sleep(3600)


def keep(emit, beside):
    """A folder that goes when this process ends by itself."""
    from attn_deploy.files import KeptFolder

    _kept.append(KeptFolder(Path(beside)))
    return str(_kept[-1].path)


_kept: list = []
