"""Whether it may happen, and that it ends.

The one door from a decision to a cluster is `safety.supervisor.Supervisor`. This room needs the standard library alone:
what stands between a learning agent and a cluster should be readable in an evening.
"""
