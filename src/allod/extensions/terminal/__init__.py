"""Keeps what was typed in `allod chat`."""
