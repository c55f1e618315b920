"""The output for people: progress bar, notes, tables, reports."""
