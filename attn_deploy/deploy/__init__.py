"""From a name to a quantized file, an engine or a package: export, convert, build in one call."""
