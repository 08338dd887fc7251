"""Networks with named slots where a module plugs in."""
