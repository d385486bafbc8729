"""The dashboard's server and the data of its pages; the pages themselves lie in `apps/review/`. Imports no torch."""
