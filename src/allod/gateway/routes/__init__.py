"""The routes that FastAPI serves, one module for each noun. Thin: what they do lives in the kernel."""
