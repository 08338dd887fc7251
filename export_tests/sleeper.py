"""A child process that hangs. No torch, so that it hangs at once."""

from __future__ import annotations

import os
import time
from pathlib import Path


def sleep_for_ever(emit):
    Path(os.environ["NOTE_OF_THE_SLEEPER"]).write_text(str(os.getpid()))
    time.sleep(3600)
