"""Who chooses, what was found, how it runs: policies, campaigns, findings, and the command line."""
