"""What a session runs in: the hardening policy, leases, verification; providers behind one interface."""
