"""The user's assistants: how a model is to answer, and with what."""
