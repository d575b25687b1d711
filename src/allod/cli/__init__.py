"""The terminal: thin clients of the server, and `serve`. Nothing heavy is imported before a command needs it."""
