"""What a person sees of a study: tables, figures, the HTML report and the dashboard."""
