"""The version of this package; without imports, so that every room can name it."""

__version__ = "0.1.0"
