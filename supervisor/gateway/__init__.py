"""The network edge: accept, read the head, serve the page, talk WebSocket. Owns every client connection."""
