"""Runs GGUF models by llama.cpp, one walled process for each."""
