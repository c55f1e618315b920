"""LABELLED IMAGES → A MODEL: data · feed · recipe · objective · optim · loop · state · metrics."""
