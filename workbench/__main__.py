"""`python -m workbench` and the command `workbench`."""


def main() -> None:
    """Run the command line."""
    import warnings

    from workbench.cli import run

    warnings.formatwarning = lambda message, *_, **__: f"workbench: {' '.join(str(message).split())}\n"
    run()


if __name__ == "__main__":
    main()
