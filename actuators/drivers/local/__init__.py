"""The embedded cluster: real signals, real sockets, real bytes.

Targets are found in the platform's handle (`platform.json`). Whatever has to be found again to revert carries the
injection's id: the command line of a holder, the table of the fault proxy. Where the platform is gone, so is every
fault in it.
"""
