"""What it costs, how fast it stops, and what hours of it leave behind: measured on real clusters and simulated ones."""
