"""The composition root: the only place that names concrete clusters, drivers and policies.

Heavy parts are imported where they are needed: the watchdog is built here too, and must start in a moment.
"""
