"""What can be broken, and how each breakage is undone.

Nouns (`fault`, `catalogue`, `clock`, `errors`), one verb set per fault family (`pod`, `network`, `model`),
and the drivers that carry them out on one platform each. Everything but the drivers needs the standard library alone.
"""
