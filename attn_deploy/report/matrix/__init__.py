"""Reports of an export matrix."""
