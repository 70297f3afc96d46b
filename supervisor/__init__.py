"""A hardened terminal in the browser: one container per visitor, gone when the visitor is."""

__version__ = "0.1.0"
