"""LABELLED IMAGES → A MODEL: data · metrics · recipes · optim · mixing · loop · state."""
