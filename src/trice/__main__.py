"""`python -m trice`, which is what `torchrun -m trice` and `accelerate launch -m trice` start."""

from trice.cli import main

main()
