"""``python -m attn_deploy`` is ``attn-deploy``."""

import signal


def main() -> None:
    """Entry point; Ctrl-C waits until the command line can answer it, for in an import it would print a traceback."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    from attn_deploy.cli import main as run

    run()


if __name__ == "__main__":
    main()
