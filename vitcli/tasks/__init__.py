"""Each command as a library call: a frozen Job in, a Summary out."""
