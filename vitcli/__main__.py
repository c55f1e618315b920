"""`python -m vitcli` is `vit`."""

from vitcli.cli import entry

if __name__ == "__main__":
    entry()
