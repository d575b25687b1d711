"""Tells what this machine is, what is installed, and what takes how much disk."""
