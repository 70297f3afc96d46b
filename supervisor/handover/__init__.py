"""A server is renewed without losing a session: one process gives, another one takes, and the kernel decides.

docs/lifecycle.md has the exchange step by step, and what a death at each of them means.
"""
