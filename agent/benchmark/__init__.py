"""Which policy finds more in the same minutes: on clusters that are there, and again on what they have shown."""
