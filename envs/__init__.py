"""What the agent sees: clusters (sensing only), telemetry, scoring, and the Gymnasium environment over them.

Nothing in this room can hurt a cluster; what hurts is reached through `safety.supervisor.Supervisor` alone.
"""
