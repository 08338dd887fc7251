"""Models as users write them, idioms and all: nothing here knows of attn_deploy."""
