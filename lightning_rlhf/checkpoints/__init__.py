"""The run's directory and what its checkpoints need: shared by the command line and by runs from Python."""
