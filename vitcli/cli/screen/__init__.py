"""What a person sees of a run: the bar, notes, tables, reports."""
