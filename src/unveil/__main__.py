"""`python -m unveil`."""

from unveil.cli.app import main

main()
