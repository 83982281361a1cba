"""How plug-ins are found, checked and asked for what they offer. Imports no torch."""
