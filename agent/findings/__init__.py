"""What was found: confirmed weaknesses, the ledger that outlives runs, remedies, and the report."""
