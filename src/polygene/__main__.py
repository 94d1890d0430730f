"""`python -m polygene`, which torchrun and accelerate launch need."""

from polygene.cli.commands import main

main()
