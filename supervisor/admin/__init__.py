"""What operators see and do: metrics, status and sessions of a running supervisor, on a listener apart."""
