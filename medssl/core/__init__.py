"""What every room stands on: errors, whole writes, the run record, the registry. Imports no torch."""
