"""``python -m attn_deploy`` is ``attn-deploy``."""

import os
import signal
import sys


def main() -> None:
    """Entry point; Ctrl-C waits until the command line can answer it, for in an import it would print a traceback."""
    _open_streams()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    from attn_deploy.cli import main as run

    run()


def _open_streams() -> None:
    """Put something where a standard stream is closed: the next file to be opened would take its place.

    What is printed to a closed output is an error, as on a full disk; of that nobody can be told of, nothing is.
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
