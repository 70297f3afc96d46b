"""Tests of the gateway: HTTP, both protocols, hostile clients."""
