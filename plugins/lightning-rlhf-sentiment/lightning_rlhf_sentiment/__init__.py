"""Sentiment for lightning_rlhf: reward functions for English and Chinese, and labelled Chinese reviews."""
