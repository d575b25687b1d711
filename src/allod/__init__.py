"""Allod: a private AI assistant that runs wholly on your own device."""

__version__ = "0.1.0"
