"""JSON and TOML that others may have written, read with the types that they must have."""

from attn_deploy.reading.texts import read_json, read_toml, read_typed
from attn_deploy.reading.types import field_error, require_share, typed

__all__ = ["field_error", "read_json", "read_toml", "read_typed", "require_share", "typed"]
