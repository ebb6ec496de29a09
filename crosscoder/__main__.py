"""`python -m crosscoder`: the same as the console command."""

from .command.app import main

if __name__ == "__main__":
    main()
