"""bm: how the brain hears speech."""
__version__ = "0.1.0"
