"""What each subcommand means, as a library call: a frozen Job in, a Summary out."""
