"""Datasets and prompt templates for the layouts in which people keep dialogues, as a plug-in of lightning_rlhf."""
