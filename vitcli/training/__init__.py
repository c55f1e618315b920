"""LABELLED IMAGES → A MODEL: data · metrics · recipes · optim · mixing · events · loop · state."""
