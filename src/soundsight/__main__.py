"""``python -m soundsight`` is the ``soundsight`` command."""

from soundsight.apps.cli import main

if __name__ == "__main__":
    main()
