"""PPO of Stable-Baselines3 (sb3-contrib's MaskablePPO) for clusters of any size, its rollouts kept on the device."""
