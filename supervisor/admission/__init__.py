"""May this client come in: credentials, origins, tokens, and what a browser may set in the environment."""
