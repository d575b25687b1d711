"""`python -m allod` is the `allod` command."""

from allod.cli.main import main

if __name__ == "__main__":
    main()
