"""`python -m agent` is `backburn`."""

from .cli import main

if __name__ == "__main__":
    main()
