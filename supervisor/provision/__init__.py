"""Set-up: what must be there before the server can serve, made from whatever this host has."""
