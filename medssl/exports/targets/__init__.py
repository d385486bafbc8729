"""One library or format a file. A new target is one file here; `--to` names it by the file."""
