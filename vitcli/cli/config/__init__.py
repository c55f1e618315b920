"""The config file: options from `vit.toml`, and where each option of a run comes from."""
