"""ARRAYS → PICTURES: maps, charts, confusion matrices and pages, for people to look at."""
