"""One module for each wire format: how its requests become ours, and our answers its."""
