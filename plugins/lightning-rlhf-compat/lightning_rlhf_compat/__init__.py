"""Reward functions written for TRL, trlX, OpenRLHF and verl, run unchanged."""
