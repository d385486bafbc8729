"""The layouts of public weights, one library or model family a file; `--as` names the file."""
