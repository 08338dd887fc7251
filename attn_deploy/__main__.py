"""``python -m attn_deploy`` is ``attn-deploy``."""

from attn_deploy.cli import main

if __name__ == "__main__":
    main()
