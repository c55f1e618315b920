"""Parts that every command needs: the nouns of a job, and the run itself."""
