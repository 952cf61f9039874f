"""Durable jobs: leased with an epoch and a secret, answered exactly once."""
