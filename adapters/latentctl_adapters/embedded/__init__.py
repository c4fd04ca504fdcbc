"""What ships with the package: drawn faces."""
