"""``python -m soundsight`` is the ``soundsight`` command."""

from soundsight.cli.main import main

if __name__ == "__main__":
    main()
