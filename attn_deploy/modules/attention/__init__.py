"""Channel, spatial, mixed and self attention."""
