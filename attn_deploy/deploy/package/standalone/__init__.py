"""Scripts that are copied into a package as they are: each a file of its own, without attn-deploy and without torch."""
