"""Public helpers for tests: terminals without programs, and cancellation at every checkpoint."""
