"""``python -m petiole``."""

from petiole.cli import main

if __name__ == "__main__":
    main()
