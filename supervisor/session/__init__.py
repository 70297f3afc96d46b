"""Sessions: the scope that owns a sandbox, what it keeps, and who is attached. Knows no engine."""
