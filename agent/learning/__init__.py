"""Policies: from an observation and a mask to an action. Learned ones and their rivals are equals."""
