"""A simulated ML cluster: small, honest, and on the same path as a real one."""
