"""The command line. Nothing on the way to a light command imports torch."""
