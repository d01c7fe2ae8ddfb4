"""The embedded staging ML cluster: a small but real ML platform of real processes, the system under test.

It knows nothing of those who test it. `guard` starts and ends it, `handle` is the file through which others find it,
and `settings` says what it is made of. A *weak* switch is always an absent option, never code that adds harm.
"""
