"""Entry point of `python -m trice`, which `torchrun -m trice` and `accelerate launch -m trice` start."""

from trice.cli import main

main()
