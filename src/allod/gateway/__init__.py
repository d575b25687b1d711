"""Speaks HTTP: who are you, which dialect, errors, streams. Knows the kernel, and no extension."""
