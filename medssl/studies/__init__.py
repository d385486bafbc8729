"""The label-budget study: arms x budgets x draws, each cell one run, and the table they make."""
