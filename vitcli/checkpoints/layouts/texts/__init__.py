"""The text towers of the layouts whose models compare images with texts."""
