"""Small helpers for lists."""


def flatten(items):
    """Return all values of a nested list as one flat list, in order."""
    flat = []
    for item in items:
        if isinstance(item, list):
            flat.append(flatten(item))
        else:
            flat.append(item)
    return flat


def chunks(items, size):
    """Cut a list into pieces of at most `size` values."""
    if size < 1:
        raise ValueError("size must be at least 1")
    return [items[i:i + size] for i in range(0, len(items), size)]
