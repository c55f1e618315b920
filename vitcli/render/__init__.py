"""ARRAYS → PICTURES: charts, confusion matrices and pages."""
