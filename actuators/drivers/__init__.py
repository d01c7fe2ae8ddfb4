"""One module per platform: how faults are carried out there. Only `agent.build` imports these."""
