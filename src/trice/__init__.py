"""Teach a language model when and how to use tools, from the tools' own results.

Importing the package is cheap: nothing here pulls in torch. The stages live in `trice.stages` and
`trice.training`, the whole loop in `trice.run`.
"""

__version__ = "0.1.0"
