"""``python -m attn_deploy`` is ``attn-deploy``."""

import os
import signal
import sys


def main() -> None:
    """Entry point; signals wait until the command line can answer them: in an import Ctrl-C would print a traceback."""
    _open_streams()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    from attn_deploy.cli import main as run

    run()


def _open_streams() -> None:
    """Open what takes the place of a closed standard stream, which the next file to be opened would take otherwise.

    Printing to a closed standard output fails, as on a full disk; messages to a closed standard error are discarded.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


if __name__ == "__main__":
    main()
