"""unimir: one model and one platform for multilingual search over pictures and texts."""

__version__ = "0.1.0"
