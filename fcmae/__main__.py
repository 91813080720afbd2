"""`python -m fcmae COMMAND ...`, and `accelerate launch -m fcmae COMMAND ...`; see `fcmae.cli`."""

from fcmae.cli import main

if __name__ == "__main__":
    main()
