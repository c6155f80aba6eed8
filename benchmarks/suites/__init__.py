"""The named suites, as TOML files."""
