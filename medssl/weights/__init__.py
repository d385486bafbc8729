"""Public weights -> a run: read safely, mapped onto an encoder by name, with a receipt of what was loaded."""
