"""`python -m polygene`, which torchrun and accelerate launch need."""

from polygene.cli import main

main()
