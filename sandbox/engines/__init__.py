"""Where containers come from. `base.py` is the seam; each other file is one engine and the only importer of its SDK."""
