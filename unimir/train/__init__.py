"""Prepared data to a bundle: three stages in one Ray Train job over DeepSpeed. Knows no index and no service."""
