"""What readers said, kept in a database: readings of cases, and decisions on which scans to label."""
