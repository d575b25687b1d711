"""The machinery that keeps the promises. Features live in extensions; HTTP lives in the gateway."""
