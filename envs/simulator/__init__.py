"""Thousands of simulated ML clusters in one batch of tensors: what an agent learns on before it meets a real one."""
